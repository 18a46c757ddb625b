"""A whole Debian on a GPT disk: EFI system partition with GRUB, ext4 root with systemd.

Made of Debian's packages, without root rights or loop devices.
"""

import json
import tempfile
from pathlib import Path

from stratovirt_lab.architectures import Architecture, of_this_host
from stratovirt_lab.cache import built, cache_dir
from stratovirt_lab.kernels import run_tool

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "efibootmgr", "pciutils", "iproute2", "zstd",
    "initramfs-tools",
)  # fmt: skip
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
MIB = 1 << 20
ESP_MIB, ROOT_MIB = 34, 1400
FIRST_MIB = 1
LABEL = "debian-root"

FSTAB = f"LABEL={LABEL} / ext4 defaults 0 1\\n"
GRUB_MODULES = (
    "part_gpt", "fat", "ext2", "linux", "normal", "search", "search_label", "configfile", "reboot",
)  # fmt: skip
FIND_ROOT = f"search --label {LABEL} --set root\nset prefix=($root)/boot/grub\n"


def _packages(architecture: Architecture) -> tuple[str, ...]:
    return (*PACKAGES, f"linux-image-cloud-{architecture.debian}")


def _grub_config(architecture: Architecture) -> str:
    return (
        "set timeout=0\n"
        "menuentry Debian {\n"
        f"  linux /vmlinuz root=LABEL={LABEL} ro console={architecture.console} quiet\n"
        "  initrd /initrd.img\n"
        "}\n"
    )


def debian_disk() -> Path:
    """The pristine disk image; copy it before giving it to a guest."""
    architecture = of_this_host()
    inputs = [*_packages(architecture), *LEFT_OUT, FSTAB, FIND_ROOT, _grub_config(architecture)]
    recipe = "\0".join([SUITE, *inputs, _layout()])
    return built("debian-disk", recipe, lambda target: _make(architecture, target))


def _layout() -> str:
    """The partition table, in sfdisk's words."""
    sectors = MIB // 512
    esp, root = FIRST_MIB * sectors, (FIRST_MIB + ESP_MIB) * sectors
    return (
        f"label: gpt\nstart={esp}, size={ESP_MIB * sectors}, type=U\n"
        f"start={root}, size={ROOT_MIB * sectors}, type=L\n"
    )


def _make(architecture: Architecture, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        folder = Path(scratch)
        # mmdebstrap builds as another user where it is not root.
        folder.chmod(0o755)
        root, esp = folder / "root.ext2", folder / "esp.fat"
        _make_root(architecture, folder, root)
        _make_esp(architecture, folder, esp)
        with target.open("wb") as disk:
            disk.truncate((FIRST_MIB + ESP_MIB + ROOT_MIB + 1) * MIB)
        run_tool("sfdisk", "-q", str(target), stdin=_layout().encode())
        _copy(esp, target, FIRST_MIB * MIB)
        _copy(root, target, (FIRST_MIB + ESP_MIB) * MIB)


def _make_root(architecture: Architecture, folder: Path, target: Path) -> None:
    (folder / "grub.cfg").write_text(_grub_config(architecture))
    # JSON's quoting of a plain string is a shell's as well.
    hooks = [
        'chroot "$1" passwd -q -d root',
        'echo debian > "$1/etc/hostname"',
        f'printf {json.dumps(FSTAB)} > "$1/etc/fstab"',
        'mkdir -p "$1/boot/grub"',
        f'upload "{folder}/grub.cfg" /boot/grub/grub.cfg',
    ]
    packages = ",".join(_packages(architecture))
    run_tool(
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}",
        "--aptopt=Apt::Install-Recommends \"false\"", "--format=ext2",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        *(f"--customize-hook={hook}" for hook in hooks),
        SUITE, str(target),
    )  # fmt: skip
    # What the tool makes has not a free block and is not ext4 yet.
    run_tool("resize2fs", str(target), f"{ROOT_MIB}M")
    run_tool("tune2fs", "-L", LABEL, "-O", "extents,has_journal,uninit_bg", str(target))


def _make_esp(architecture: Architecture, folder: Path, target: Path) -> None:
    program = folder / architecture.efi_program
    (folder / "early.cfg").write_text(FIND_ROOT)
    run_tool(
        "grub-mkimage", "-O", architecture.grub, "-o", str(program), "-p", "/boot/grub",
        "-c", str(folder / "early.cfg"), *GRUB_MODULES,
    )  # fmt: skip
    with target.open("wb") as image:
        image.truncate(ESP_MIB * MIB)
    run_tool("mformat", "-i", str(target), "-F", "::")
    run_tool("mmd", "-i", str(target), "::/EFI", "::/EFI/BOOT")
    run_tool("mcopy", "-i", str(target), str(program), f"::/EFI/BOOT/{program.name}")


def _copy(source: Path, target: Path, offset: int) -> None:
    """Put a file into the disk, leaving holes where it has zeros."""
    zeros = bytes(MIB)
    with source.open("rb") as content, target.open("r+b") as disk:
        position = offset
        while piece := content.read(MIB):
            if piece != zeros[: len(piece)]:
                disk.seek(position)
                disk.write(piece)
            position += len(piece)
