"""A source distribution holds all that a build needs."""

import subprocess
from pathlib import Path

import pytest
from setuptools._distutils.filelist import FileList

ROOT = Path(__file__).parents[2]


def test_a_source_distribution_has_every_source_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = FileList()
    files.findall()
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        if line and not line.startswith("#"):
            files.process_template_line(line)
    tracked = subprocess.run(
        ["git", "ls-files", "src"], capture_output=True, text=True, check=True
    ).stdout.split()
    # setuptools finds the Python modules by itself.
    needed = {name for name in tracked if not name.endswith(".py")}
    assert len(needed) > 50 and needed <= set(files.files)
