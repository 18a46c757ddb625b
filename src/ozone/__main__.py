"""``python -m ozone``."""

from ozone.cli import main

main()
