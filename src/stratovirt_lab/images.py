"""Boot images: the lab host's initramfs, the guest's initramfs, kernels in every form, disks.

All of it comes from Debian's packages and needs neither root rights nor loop devices.
"""

import os
import shutil
import tempfile
from pathlib import Path

from stratovirt_lab.architectures import Architecture, of_this_host
from stratovirt_lab.cache import built, cache_dir
from stratovirt_lab.errors import LabError
from stratovirt_lab.kernels import Kernel, kernel, run_tool

HERE = Path(__file__).parent

HOST_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_console",
    "tun",
    "bridge",
    "veth",
    "virtio_net",
    "vfio_pci",
    "vhost_net",
    "vhost_vsock",
    "loop",
    "configfs",
    "null_blk",
    "8021q",
    "macvtap",
)
"""What the lab host loads on every architecture, in Debian's module names."""

GUEST_MODULES = (
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "button",
    "evdev",
    "8021q",
)
"""What the guest's initramfs carries and loads; the cloud kernel has ext4 built in."""

GUEST_PROGRAMS = ("guest-vsock-echo.c",)
"""Statically linked tools that busybox does not have."""

TOOLS = ("fio", "iperf3", "ethtool", "kexec", "numactl", "lscpu")
"""Programs of this machine that guests get on a disk, with the libraries they need."""

MOUNT_TOOLS = (
    "mkdir -p /tools; for d in /sys/block/vd*; do grep -q guest-tools $d/serial && "
    "mount -t ext4 -o ro /dev/${d##*/} /tools; done; "
    "for d in proc sys dev; do mount -o bind /$d /tools/$d; done; mount -t tmpfs tmpfs /tools/tmp"
)
"""For a guest's shell: makes ``chroot /tools NAME`` work; the disk's serial is guest-tools."""

ROOT_SIZE = "64M"
TOOLS_SIZE = "256M"


def busybox() -> Path:
    """The statically linked busybox of Debian's ``busybox-static``."""
    for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        if path.exists():
            return path
    raise LabError("busybox is missing; run 'make setup' (Debian package busybox-static)")


def _cpio(folder: Path, target: Path) -> None:
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    with target.open("wb") as out:
        out.write(
            _run_bytes(
                "cpio",
                "--quiet",
                "-o",
                "-H",
                "newc",
                "--owner=0:0",
                "--reproducible",
                cwd=folder,
                stdin="\n".join(names).encode(),
            )
        )


def _run_bytes(*argv: str, cwd: Path, stdin: bytes) -> bytes:
    # cpio's archive is binary and must not pass through text decoding.
    with tempfile.NamedTemporaryFile(dir=cache_dir()) as out:
        run_tool(*argv, "-O", out.name, cwd=cwd, stdin=stdin)
        return Path(out.name).read_bytes()


def _initramfs(
    source: Kernel,
    modules: tuple[str, ...],
    scripts: dict[str, str],
    target: Path,
    programs: tuple[str, ...] = (),
) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        folder = Path(scratch)
        (folder / "bin").mkdir()
        (folder / "modules").mkdir()
        shutil.copy(busybox(), folder / "bin" / "busybox")
        paths = source.modules(*modules)
        for path in paths:
            shutil.copy(path, folder / "modules" / path.name)
        (folder / "modules" / "order").write_text("".join(f"{path.name}\n" for path in paths))
        for name, script in scripts.items():
            file = folder / name
            file.write_text((HERE / script).read_text())
            file.chmod(0o755)
        for program in programs:
            name = program.removeprefix("guest-").removesuffix(".c")
            out = str(folder / "bin" / name)
            run_tool("gcc", "-O2", "-Wall", "-static", "-o", out, str(HERE / program))
        _cpio(folder, target)


def _scripts_recipe(source: Kernel, modules: tuple[str, ...], scripts: dict[str, str]) -> str:
    texts = [(HERE / script).read_text() for script in scripts.values()]
    return "\0".join([source.version, *modules, *scripts, *texts])


def host_kernel(architecture: Architecture) -> Kernel:
    """Debian's ordinary kernel."""
    return kernel(architecture.debian)


def lab_host(architecture: Architecture) -> tuple[Path, Path]:
    """(kernel, initramfs) of the lab host."""
    source = host_kernel(architecture)
    modules = (*HOST_MODULES, *architecture.host_modules)
    scripts = {"init": "lab-init.sh", "lab-agent.sh": "lab-agent.sh"}
    initramfs = built(
        "lab-initramfs",
        _scripts_recipe(source, modules, scripts),
        lambda target: _initramfs(source, modules, scripts, target),
    )
    return source.image, initramfs


def _guest_source() -> Kernel:
    """Debian's cloud kernel for this host's architecture."""
    return kernel(f"cloud-{of_this_host().debian}")


def guest_kernel() -> Path:
    """The cloud kernel as shipped."""
    return _guest_source().image


def guest_vmlinux() -> Path:
    """The same kernel as an ELF file."""
    source, unpack = _guest_source(), of_this_host().unpack_kernel
    return built("guest-vmlinux", source.version, lambda target: unpack(source.image, target))


def guest_raw_image() -> Path:
    """The same kernel as the raw image that ``objcopy -O binary vmlinux`` makes."""
    source = _guest_source()
    vmlinux = guest_vmlinux()
    return built(
        "guest-raw-image",
        source.version,
        lambda target: _objcopy(vmlinux, target),
    )


def _objcopy(vmlinux: Path, target: Path) -> None:
    run_tool("objcopy", "-O", "binary", str(vmlinux), str(target))


def guest_initramfs() -> Path:
    """The guest's initramfs: loads virtio drivers, then mounts ``root=`` or runs a shell."""
    source = _guest_source()
    scripts = {"init": "guest-init.sh"}
    texts = [(HERE / program).read_text() for program in GUEST_PROGRAMS]
    return built(
        "guest-initramfs",
        "\0".join([_scripts_recipe(source, GUEST_MODULES, scripts), *texts]),
        lambda target: _initramfs(source, GUEST_MODULES, scripts, target, GUEST_PROGRAMS),
    )


def guest_root() -> Path:
    """A pristine ext4 root image with busybox; copy it before giving it to a guest."""
    recipe = "\0".join(
        [(HERE / "guest-root-init.sh").read_text(), ROOT_SIZE, str(busybox().stat().st_size)]
    )
    return built("guest-root", recipe, _make_root)


def guest_tools() -> Path:
    """An ext4 image with TOOLS, to chroot into; its /boot has a kernel for kexec."""
    programs = [_program(name) for name in TOOLS]
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in programs]
    recipe = "\0".join([*stamps, TOOLS_SIZE, str(guest_initramfs()), str(guest_kernel())])
    return built("guest-tools", recipe, lambda target: _make_tools(programs, target))


def _program(name: str) -> Path:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise LabError(f"'{name}' is not installed; run 'make setup'")
    return Path(found)


def _make_tools(programs: list[Path], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        for name in ("bin", "boot", "proc", "sys", "dev", "tmp", "run"):
            (folder / name).mkdir()
        shutil.copy(busybox(), folder / "bin" / "busybox")
        (folder / "bin" / "sh").symlink_to("busybox")
        shutil.copy(guest_kernel(), folder / "boot" / "vmlinuz")
        shutil.copy(guest_initramfs(), folder / "boot" / "initrd")
        for program in programs:
            shutil.copy(program, folder / "bin" / program.name)
            for word in run_tool("ldd", str(program)).split():
                library = folder / word.lstrip("/")
                if word.startswith("/") and not library.exists():
                    library.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(word, library)
        _make_ext4(folder, target, TOOLS_SIZE, "guest-tools")


def _make_root(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        for name in ("bin", "sbin", "proc", "sys", "dev", "tmp", "etc", "root", "mnt", "run"):
            (folder / name).mkdir()
        shutil.copy(busybox(), folder / "bin" / "busybox")
        applets = run_tool(str(busybox()), "--list").split()
        for applet in applets:
            if applet != "busybox":
                (folder / "bin" / applet).symlink_to("busybox")
        init = folder / "sbin" / "init"
        init.write_text((HERE / "guest-root-init.sh").read_text())
        init.chmod(0o755)
        _make_ext4(folder, target, ROOT_SIZE, "guest-root")


def _make_ext4(folder: Path, target: Path, size: str, label: str) -> None:
    run_tool(
        "mke2fs", "-q", "-t", "ext4", "-L", label, "-E", "root_owner=0:0", "-d", str(folder),
        str(target), size,
    )  # fmt: skip


def scratch_disk(target: Path, size: str) -> None:
    """An empty ext4 image at `target`: the lab's disk for images under test (O_DIRECT works)."""
    run_tool("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", str(target), size)
