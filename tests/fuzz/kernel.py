"""``make fuzz T=kernel``: a kernel or initrd, however odd, gives one line or an entry point."""

import os
import struct
import sys

import atheris

with atheris.instrument_imports(include=["stratovirt.boot"]):
    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt._native.ram_mapping import RamMapping
    from stratovirt.boot.image import BootFile, KernelFile
    from stratovirt.boot.x86_64_linux import load_linux
    from stratovirt.errors import StratovirtError

RAM_BYTES = 32 << 20
VALUES = (0, 1, 2, 0x40, 0xFF, 0x1000, 0xFFFF, 0x10_0000, RAM_BYTES - 1, RAM_BYTES, 1 << 31,
          (1 << 32) - 1, 1 << 47, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip


def sound_bzimage() -> bytes:
    """Real-mode setup and a little protected-mode code (Documentation/arch/x86/boot.rst)."""
    image = bytearray(0x2000)
    image[0x1F1] = 3
    image[0x1F4:0x1F8] = struct.pack("<I", 0x180)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = struct.pack("<H", 0x20F)
    image[0x211] = 1
    image[0x22C:0x230] = struct.pack("<I", 0x7FFF_FFFF)
    image[0x236] = 1
    image[0x238:0x23C] = struct.pack("<I", 2047)
    image[0x258:0x268] = struct.pack("<QI", 0x100_0000, 0x10_0000) + bytes(4)
    return bytes(image)


def sound_elf() -> bytes:
    """An x86_64 executable with a segment and a note."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0x100_0000, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )  # fmt: skip
    load = struct.pack("<IIQQQQQQ", 1, 5, 0x100, 0x100_0000, 0x100_0000, 0x80, 0x100, 0x1000)
    note = struct.pack("<IIQQQQQQ", 4, 4, 0x180, 0, 0, 0x20, 0x20, 4)
    content = struct.pack("<III", 4, 8, 18) + b"Xen\0" + struct.pack("<Q", 0x100_0000)
    return (header + load + note).ljust(0x180, b"\x90") + content.ljust(0x80, b"\0")


KERNELS = (sound_bzimage(), sound_elf())
FIELDS = ((0x1F0, 0x268), (0, 0x1A0))
"""Where the numbers that loaders read are, in each kernel."""


def file_of(content: bytes) -> int:
    """An open file with the content."""
    fd = os.memfd_create("fuzz", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd


def one_input(content: bytes) -> None:
    """Damage a kernel and load it."""
    data = atheris.FuzzedDataProvider(content)
    kind = data.ConsumeIntInRange(0, 1)
    kernel = bytearray(KERNELS[kind])
    for _ in range(data.ConsumeIntInRange(0, 6)):
        size = data.PickValueInList([1, 2, 4, 8])
        at = data.ConsumeIntInRange(FIELDS[kind][0], FIELDS[kind][1] - size)
        value = data.PickValueInList(list(VALUES)) & ((1 << 8 * size) - 1)
        kernel[at : at + size] = value.to_bytes(size, "little")
    if data.ConsumeIntInRange(0, 7) == 0:
        del kernel[data.ConsumeIntInRange(0, len(kernel)) :]
    ram = RamMapping(RAM_BYTES)
    memory = GuestMemory()
    memory.add(0, ram, 0, RAM_BYTES)
    command_line = b"x" * data.ConsumeIntInRange(0, 3000)
    kernel_fd = file_of(bytes(kernel))
    initrd_fd = file_of(data.ConsumeBytes(256))
    has_initrd = data.ConsumeBool()
    files: list[BootFile] = []
    try:
        kernel_file = KernelFile(f"/proc/self/fd/{kernel_fd}")
        initrd = BootFile("-initrd", f"/proc/self/fd/{initrd_fd}")
        files += [kernel_file, initrd]
        load_linux(
            kernel=kernel_file, initrd=initrd if has_initrd else None, command_line=command_line,
            memory=memory, ram=[(0, RAM_BYTES)],
        )  # fmt: skip
    except StratovirtError as error:
        assert 0 < len(str(error)) < 500, str(error)
    finally:
        for file in files:
            file.close()
        os.close(kernel_fd)
        os.close(initrd_fd)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
