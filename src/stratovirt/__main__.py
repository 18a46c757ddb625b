"""``python -m stratovirt``."""

from stratovirt.cli import main

main()
