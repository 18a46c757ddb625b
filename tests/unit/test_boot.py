"""Kernels and initrds that cannot boot are refused in one line that says why."""

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.ram_mapping import RamMapping
from stratovirt.boot.image import BootError, BootFile, KernelFile
from stratovirt.boot.initrd import load_initrd, place_initrd
from stratovirt.boot.x86_64_boot_params import boot_params
from stratovirt.boot.x86_64_image import X8664Image
from stratovirt.boot.x86_64_linux import load_kernel, load_linux
from tests.payload import newc
from tests.payloads.x86_64 import elf

RAM = 64 << 20


def ram(size: int = RAM) -> GuestMemory:
    memory = GuestMemory()
    memory.add(0, RamMapping(size), 0, size)
    return memory


def bzimage(payload: bytes = b"\x90" * 4096, **fields: int) -> bytes:
    head = bytearray(5 * 512)
    head[0x1F1] = 4
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x200:0x206] = b"\xeb\x6aHdrS"
    values = {"version": 0x20F, "xloadflags": 1, "initrd_addr_max": 0x7FFF_FFFF,
              "cmdline_size": 2047, "pref_address": 0x100_0000, "init_size": 0x10_0000,
              "syssize": len(payload) // 16} | fields  # fmt: skip
    struct.pack_into("<H", head, 0x206, values["version"])
    struct.pack_into("<H", head, 0x236, values["xloadflags"])
    struct.pack_into("<I", head, 0x22C, values["initrd_addr_max"])
    struct.pack_into("<I", head, 0x238, values["cmdline_size"])
    struct.pack_into("<QI", head, 0x258, values["pref_address"], values["init_size"])
    struct.pack_into("<I", head, 0x1F4, values["syssize"])
    return bytes(head) + payload


def refused(tmp_path: Path, content: bytes, memory: GuestMemory | None = None) -> str:
    path = tmp_path / "kernel"
    path.write_bytes(content)
    with pytest.raises(BootError) as caught:
        load_kernel(KernelFile(str(path)), memory or ram())
    message = str(caught.value)
    assert message.startswith(f"-kernel {path}: ") and "\n" not in message
    return message


def test_a_bzimage_is_loaded_where_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(bzimage(b"\xaa" * 4096))
    memory = ram()
    image = load_kernel(KernelFile(str(path)), memory)
    assert image.entry == 0x10_0200 and image.end == 0x110_0000
    assert memory.read(0x10_0000, 4096) == b"\xaa" * 4096
    assert image.command_line_limit == 2047


def test_the_last_paragraph_of_a_bzimage_need_not_be_whole(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(bzimage(b"\xaa" * 4088, syssize=256))
    memory = ram()
    load_kernel(KernelFile(str(path)), memory)
    assert memory.read(0x10_0000, 4096) == b"\xaa" * 4088 + bytes(8)
    assert "truncated" in refused(tmp_path, bzimage(b"\xaa" * 4080, syssize=256))


def test_files_that_are_no_kernel_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"#!/bin/sh\n", b"\0" * 100_000, b"MZ" + b"x" * 5000):
        assert "not a Linux kernel" in refused(tmp_path, content)


def test_truncated_kernels_are_refused(tmp_path: Path) -> None:
    assert "truncated" in refused(tmp_path, bzimage()[:-100])
    for syssize, size in ((256, 0x210), (256, 0x400), (256, 5 * 512), (0, 5 * 512 - 8)):
        assert "truncated" in refused(tmp_path, bzimage(syssize=syssize)[:size])
    whole = elf(b"\x90" * 4096)
    for size in (32, 100, 0x1100):
        assert "truncated" in refused(tmp_path, whole[:size])


def test_kernels_for_other_machines_are_refused(tmp_path: Path) -> None:
    assert "no 64-bit entry" in refused(tmp_path, bzimage(xloadflags=0))
    assert "no 64-bit entry" in refused(tmp_path, bzimage(version=0x20B))
    arm = bytearray(elf(b"\x90"))
    struct.pack_into("<H", arm, 18, 183)
    assert "not for x86_64" in refused(tmp_path, bytes(arm))


def test_an_elf_table_anywhere_outside_the_file_is_refused(tmp_path: Path) -> None:
    for offset in (1 << 20, 1 << 63, (1 << 64) - 1):
        image = bytearray(elf(b"\x90"))
        struct.pack_into("<Q", image, 32, offset)
        assert "truncated inside its program headers" in refused(tmp_path, bytes(image))


def test_kernels_larger_than_memory_are_refused(tmp_path: Path) -> None:
    assert "needs RAM up to" in refused(tmp_path, bzimage(init_size=RAM))
    assert "does not fit" in refused(tmp_path, elf(b"\x90", address=RAM))
    assert "does not fit" in refused(tmp_path, elf(b"\x90", address=(1 << 64) - 1))


def test_a_raw_image_is_known_by_its_banner(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"\x90" * 4096 + b"Linux version 6.1.0" + b"\0" * 4096)
    image = load_kernel(KernelFile(str(path)), ram())
    assert image.entry == 0x100_0000


def test_unreadable_kernels_name_the_reason(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "not a regular file")):
        with pytest.raises(BootError, match=reason):
            load_kernel(KernelFile(str(path)), ram())


def kernel_image(**changes: int) -> X8664Image:
    return X8664Image(**{"entry": 0x100_0000, "end": 0x110_0000, **changes})  # type: ignore[arg-type]


def test_an_initrd_lies_as_high_as_the_kernel_allows(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x" * 5000)
    memory = ram()
    gpa, size = load_initrd(
        BootFile("-initrd", str(path)), kernel_image(initrd_below=0x200_0000), memory, RAM
    )
    assert (gpa, size) == (0x1FF_E000, 5000)
    assert memory.read(gpa, size) == b"x" * 5000


XZ = lzma.compress(b"".join(b"%d" % number for number in range(10_000)))


@pytest.mark.parametrize(
    "content",
    [
        newc("a", b"x" * 99),
        newc("a", b"x" * 100) + b"\0" * 512,
        newc("a", b"x") + XZ + b"\0\0\0" + gzip.compress(newc("b", b"y")),
        newc("a", b"x") + newc("TRAILER!!!", b"") + b"\0" * 300 + XZ,
        XZ + gzip.compress(b"z"),
        XZ + b"\0" * (-len(XZ) % 4) + newc("a", b"x"),
        gzip.compress(b"z") + XZ[:50],
        newc("a", b"x") + b"a=1" + bytes(8) + b"#BOOTCONFIG\n",
    ],
)
def test_any_mix_of_archives_is_an_initrd(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(content)
    memory = ram()
    gpa, size = load_initrd(BootFile("-initrd", str(path)), kernel_image(), memory, RAM)
    assert memory.read(gpa, size) == content


def test_an_initrd_may_be_as_large_as_the_kernel_and_memory_allow(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.touch()
    file = BootFile("-initrd", str(path))
    assert place_initrd(file, 903 << 20, kernel_image(), 3 << 30) == (2 << 30) - (903 << 20)
    with pytest.raises(BootError, match="give the guest at least -m 921M"):
        place_initrd(file, (903 << 20) + 5, kernel_image(), 512 << 20)
    place_initrd(file, (903 << 20) + 5, kernel_image(), 921 << 20)
    with pytest.raises(BootError, match=f"at most {(2 << 30) - 0x110_0000}, whatever -m is"):
        place_initrd(file, 2 << 30, kernel_image(), 3 << 30)


def with_numbers(at: int, number: bytes) -> bytes:
    archive = newc("a", b"") + newc("TRAILER!!!", b"")
    return archive[:at] + number + archive[at + 8 :]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        ((newc("a", b"x" * 100) + newc("TRAILER!!!", b""))[:150], "truncated"),
        (newc("a", b"x" * 100)[:60], "truncated"),
        (newc("a", b"") + b"garbage!", "damaged"),
        (with_numbers(54, b"-0000070"), "truncated or damaged"),
        (with_numbers(94, b"-0000001"), "truncated or damaged"),
        (with_numbers(94, b"0x0000_2"), "truncated or damaged"),
        (b"\xfd7zXZ\0" + b"x" * 100, "xz stream is truncated"),
        (b"x" * (RAM - 0x100_0000), "do not fit"),
        (newc("a", b"x") + newc("TRAILER!!!", b"") + newc("b", b"x" * 100)[:150], "truncated"),
        (XZ + newc("b", b"x" * 100)[:150], "cpio archive is truncated"),
        (newc("a", b"x") + XZ[:-4], "xz stream is truncated"),
    ],
)
def test_an_initrd_that_is_cut_off_or_too_large_is_refused(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(content)
    with pytest.raises(BootError, match=reason) as caught:
        load_initrd(BootFile("-initrd", str(path)), kernel_image(), ram(), RAM)
    assert str(caught.value).startswith(f"-initrd {path}: ")


def test_a_whole_cpio_archive_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(newc("a", b"x" * 100) + newc("TRAILER!!!", b"") + b"\0" * 512)
    load_initrd(BootFile("-initrd", str(path)), kernel_image(), ram(), RAM)


def test_a_command_line_beyond_the_kernels_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(bzimage(cmdline_size=100))
    for size in (100, 101):
        try:
            load_linux(kernel=KernelFile(str(path)), initrd=None, command_line=b"x" * size,
                       memory=ram(), ram=[(0, RAM)])  # fmt: skip
            assert size == 100
        except BootError as error:
            assert size == 101 and "takes at most 100" in str(error)


def test_the_zero_page_tells_linux_where_everything_is() -> None:
    page = boot_params(
        setup_header=b"", command_line_gpa=0x20000, initrd=(0x3000000, 77),
        e820=[(0, 0x9FC00, 1), (0x100000, 0x1000, 1)], rsdp=0xE0000,
    )  # fmt: skip
    assert page[0x1FE:0x200] == b"\x55\xaa" and page[0x202:0x206] == b"HdrS"
    assert struct.unpack_from("<II", page, 0x218) == (0x3000000, 77)
    assert struct.unpack_from("<I", page, 0x228) == (0x20000,)
    assert page[0x1E8] == 2
    assert struct.unpack_from("<QQI", page, 0x2D0 + 20) == (0x100000, 0x1000, 1)
    assert struct.unpack_from("<Q", page, 0x70) == (0xE0000,)
