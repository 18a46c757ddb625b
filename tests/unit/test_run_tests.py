"""tools/run_tests.sh: what counts as a failure, and what it prints at the end."""

import re
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
LAB = """#!/bin/sh
[ "$1" = images ] && exit 0
count=$(cat count 2>/dev/null || echo 0)
echo $((count + 1)) >count
[ "$count" != 0 ] && echo "7 passed in 1 s" && exit 0
echo "stratovirt-lab: {death}" >&2
exit 125
"""


def run_with_a_lab_that_dies_once(folder: Path, death: str) -> list[str]:
    for place in (".venv/bin", "tools", "tests/guest"):
        (folder / place).mkdir(parents=True)
    shutil.copy(REPOSITORY / "tools/run_tests.sh", folder / "tools")
    (folder / "tests/guest/test_one.py").touch()
    for name, program in (
        ("python", "#!/bin/sh\necho 2 passed in 1 s\n"),
        ("stratovirt-lab", LAB.format(death=death)),
    ):
        path = folder / ".venv/bin" / name
        path.write_text(program)
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", folder / "tools/run_tests.sh"], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == (0 if lines[-1].endswith(" 0 failed") else 1)
    return lines


def failed(lines: list[str]) -> int:
    return int(lines[-1].split(" passed, ")[1].removesuffix(" failed"))


def test_a_lab_that_died_counts_as_a_failure(tmp_path: Path) -> None:
    lines = run_with_a_lab_that_dies_once(tmp_path, "the lab said nothing for 700 s")
    assert failed(lines) == 1
    assert "== starts of a lab that failed: 1" in lines
    assert any(line.endswith(": counts as a failure") for line in lines[-3:])


def test_a_lab_that_qemu_killed_does_not(tmp_path: Path) -> None:
    lines = run_with_a_lab_that_dies_once(tmp_path, "QEMU's fault: int3: 0000 [#1] PREEMPT SMP")
    assert failed(lines) == 0
    assert "== starts of a lab that failed: 1" in lines


def test_the_minutes_of_each_bed_are_printed(tmp_path: Path) -> None:
    lines = run_with_a_lab_that_dies_once(tmp_path, "QEMU's fault: x")
    listed = lines[lines.index("== minutes, bed by bed") + 1 :]
    names = [line.partition("  ")[2] for line in (entry.lstrip() for entry in listed)]
    assert names[:3] == ["unit", "board", "fuzz, ten seconds a target"]
    assert "guest, test_one" in names


def test_the_documents_count_the_beds_alike() -> None:
    script = (REPOSITORY / "tools/run_tests.sh").read_text()
    beds = {line.split()[1].strip('",') for line in script.splitlines() if "bed " in line
            and line.strip().startswith("bed ")}  # fmt: skip
    words = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}
    for place in ("README.md", "Makefile", "docs/testing.md"):
        counted = re.findall(r"(\w+) (?:test )?beds,? ?", (REPOSITORY / place).read_text())
        assert words[len(beds)] in counted, (place, beds)
        assert not {*words.values()} & {*counted} - {words[len(beds)]}, place
    rows = (REPOSITORY / "docs/testing.md").read_text().splitlines()
    assert {row.split()[1] for row in rows if "`make" in row and row.startswith("|")} == beds
