"""The emulator that the lab runs in, and the mending of its SVM.

In QEMU 7.2:

* FXRSTOR and XRSTOR, of any CPU, clear IGNNE# in ``hflags2`` of the first CPU, whose thread sets
  and clears other bits there with no regard to that.  So it lost its global interrupt flag, and
  halted for good, or the flag of nested paging, and the guest it was entering walked page tables
  without it.  Nobody ever sets IGNNE#: the instruction goes.
* VMRUN and #VMEXIT set and clear a bit of ``CPUState.interrupt_request`` with an instruction that
  is not atomic, while another thread may set a bit there to interrupt this CPU.  The three
  instructions that meet there get LOCK prefixes.
* VMRUN leaves an interrupt that it has injected in ``CPUState.exception_index``, and the next
  request to leave the execution loop delivers it once more.
* A nested guest that writes CR8 while an interrupt waits ends QEMU with an assertion:
  ``x86_64_qemu_lock.c`` mends that.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from stratovirt_lab.architectures import Emulator
from stratovirt_lab.cache import built, say
from stratovirt_lab.errors import LabError
from stratovirt_lab.kernels import run_tool

LOCK_SOURCE = Path(__file__).with_name("x86_64_qemu_lock.c")
MODULE = Path("/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so")
NAME = "qemu-system-x86_64"
KNOWN = "qemu-system-x86 1:7.2+dfsg-7+deb12u18 of Debian 12"
AS_IT_IS = "STRATOVIRT_LAB_UNMENDED_QEMU"

PROGRAM_PATCHES = {
    # cpu_clear_ignne(): andl $0xffffff7f,0x1464(%rax) -> nopl 0x656e6769(%rax,%rax); nop
    bytes.fromhex("81a0641400007fffffff"): bytes.fromhex("0f1f840069676e656690"),
    # VMRUN: orl $0x100,-0x12d8(%rbx) -> lock btsl $8,-0x12d8(%rbx); nop
    bytes.fromhex("818b28edffff00010000"): bytes.fromhex("f00fbaab28edffff0890"),
    # #VMEXIT: andl $0xfffffeff,-0x12d8(%rbx) -> lock btrl $8,-0x12d8(%rbx); nop
    bytes.fromhex("81a328edfffffffeffff"): bytes.fromhex("f00fbab328edffff0890"),
    # VMRUN, an interrupt to inject: mov %r13d,0x3380(%rbx); mov %esi,-0x10ac(%rbx) -> the first;
    # nopw 0(%rax,%rax)
    bytes.fromhex("4489ab8033000089b354efffff"): bytes.fromhex("4489ab80330000660f1f440000"),
}
MODULE_PATCHES = {
    # Imports that x86_64_qemu_lock.c stands in for.
    b"\0qemu_mutex_iothread_locked\0": b"\0held_mutex_iothread_locked\0",
    b"\0qemu_cpu_is_self\0": b"\0held_cpu_is_self\0",
    # There: test %al,%al; jne 1f; the assertion, which holds now; 1: or %ebp,0xd8(%rbx)
    # -> lock or %ebp,0xd8(%rbx); jmp to what follows the old one
    bytes.fromhex("84c075244c8d05ee170000"): bytes.fromhex("f009abd8000000eb259090"),
}
"""What is replaced by as many bytes; each has to be found once, or this is another QEMU."""


def emulator() -> Emulator:
    """The installed QEMU, mended.

    Raises LabError when there is none, and for one that is not known here, unless its user wants
    it as it is.
    """
    found = shutil.which(NAME)
    if found is None:
        raise LabError(f"{NAME} is missing; run 'make setup'")
    program = Path(found)
    originals = {program: PROGRAM_PATCHES, MODULE: MODULE_PATCHES}
    if not all(_matches(path, patches) for path, patches in originals.items()):
        if os.environ.get(AS_IT_IS) != "1":
            raise LabError(
                f"{found} is not the QEMU whose SVM is mended here ({KNOWN}), and as it is it may "
                f"lose guests: install that one, or set {AS_IT_IS}=1 to go on with this one"
            )
        say(f"{found} is used as it is ({AS_IT_IS}=1): guests may be lost")
        return Emulator(found)
    stamps = [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, originals)]
    recipe = f"{stamps} {originals} {LOCK_SOURCE.read_text()}"
    folder = built("qemu", recipe, lambda target: _mend(program, target))
    return Emulator(
        str(folder / "bin" / NAME),
        {"QEMU_MODULE_DIR": str(folder), "LD_PRELOAD": str(folder / "qemu-lock.so")},
    )


def _matches(path: Path, patches: Mapping[bytes, bytes]) -> bool:
    content = path.read_bytes() if path.exists() else b""
    return all(content.count(old) == 1 for old in patches)


def _mend(program: Path, folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    # QEMU looks for its firmware beside the folder it was started from.
    (folder / "share").symlink_to("/usr/share")
    (folder / "lib").symlink_to("/usr/lib")
    for source, target, patches in (
        (program, folder / "bin" / NAME, PROGRAM_PATCHES),
        (MODULE, folder / MODULE.name, MODULE_PATCHES),
    ):
        content = source.read_bytes()
        for old, new in patches.items():
            content = content.replace(old, new)
        target.write_bytes(content)
        target.chmod(0o755)
    library = str(folder / "qemu-lock.so")
    run_tool("gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, str(LOCK_SOURCE))
