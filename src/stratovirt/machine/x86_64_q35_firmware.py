"""q35's firmware: the flash chips that hold it, and fw_cfg, which describes the machine to it."""

from __future__ import annotations

import mmap
import os
import struct

from stratovirt.boot.image import BootFile
from stratovirt.boot.x86_64_boot_params import E820_RAM
from stratovirt.devices import fw_cfg
from stratovirt.machine import x86_64_q35_layout as layout
from stratovirt.machine.parts.flash import Flash
from stratovirt.machine.parts.fw_cfg import FirmwareConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.machine.part import BoardContext
    from stratovirt.machine.parts.pci_express import PciExpress
    from stratovirt.machine.x86_64_board import X8664Board

TABLES_MOST = 1 << 20
SETUP_SECTS, SECTOR, DEFAULT_SETUP_SECTS = 0x1F1, 512, 4


class Firmware:
    """The flash chips below 4 GiB, unit 0 at the top, and the entries of fw_cfg.

    `acpi(address, limit)` makes the ACPI tables with their addresses, `smbios()` the structures.
    """

    def __init__(
        self,
        board: X8664Board,
        context: BoardContext,
        pci: PciExpress,
        *,
        acpi: Callable[[int, int], list[tuple[int, bytes]]],
        smbios: Callable[[], bytes],
    ) -> None:
        self._board, self._pci = board, pci
        self._acpi, self._smbios = acpi, smbios
        fw_cfg = board.add(FirmwareConfig(context, board.port_space, layout.FW_CFG_PORT))
        self.fw_cfg = fw_cfg.device
        self._blobs: list[mmap.mmap] = []
        board.add(Flash(context, board.memory_space, layout.FLASH_END, layout.FLASH_MOST))

    def load(self) -> None:
        """Add the fw_cfg entries; the ACPI tables are built when firmware reads them."""
        board, device = self._board, self.fw_cfg
        count = len(board.cpus.present)
        device.add(fw_cfg.CPU_COUNT, struct.pack("<H", count))
        device.add(fw_cfg.MAX_CPUS, struct.pack("<H", board.cpus.last_hardware_id + 1))
        device.add(fw_cfg.BOOT_MENU, struct.pack("<H", 0))
        device.add_file(
            "etc/e820",
            b"".join(struct.pack("<QQI", gpa, size, E820_RAM) for gpa, size in board.ram),
        )
        from stratovirt.acpi import loader

        def part(index: int) -> Callable[[], bytes]:
            # Built when firmware reads it: by then firmware has placed ECAM.
            return lambda: loader.script(self._acpi(0, TABLES_MOST))[index]

        for index, name in enumerate((loader.TABLES_FILE, loader.RSDP_FILE, loader.SCRIPT_FILE)):
            device.add_file(name, part(index))
        self._add_smbios()
        order = boot_order(self._pci)
        if order:
            device.add_file("bootorder", order)
        if not self._blobs:
            self._add_kernel()

    def _add_smbios(self) -> None:
        from stratovirt.machine.smbios import entry_point

        tables = self._smbios()
        self.fw_cfg.add_file("etc/smbios/smbios-tables", tables)
        self.fw_cfg.add_file("etc/smbios/smbios-anchor", entry_point(tables, 0))

    def _add_kernel(self) -> None:
        """Add the kernel (setup code and the rest, by its boot protocol), command line, initrd."""
        config, device = self._board.config, self.fw_cfg
        if self._board.kernel is None:
            return
        kernel = self._map(self._board.kernel)
        setup = min(((kernel[SETUP_SECTS] or DEFAULT_SETUP_SECTS) + 1) * SECTOR, len(kernel))
        device.add(fw_cfg.SETUP_SIZE, struct.pack("<I", setup))
        device.add(fw_cfg.SETUP_DATA, kernel[:setup])
        device.add(fw_cfg.KERNEL_SIZE, struct.pack("<I", len(kernel) - setup))
        device.add(fw_cfg.KERNEL_DATA, kernel[setup:])
        text = os.fsencode(config.append) + b"\0"
        device.add(fw_cfg.COMMAND_LINE_SIZE, struct.pack("<I", len(text)))
        device.add(fw_cfg.COMMAND_LINE_DATA, text)
        if self._board.initrd is not None:
            initrd = self._map(self._board.initrd)
            device.add(fw_cfg.INITRD_SIZE, struct.pack("<I", len(initrd)))
            device.add(fw_cfg.INITRD_DATA, initrd)

    def _map(self, file: BootFile) -> mmap.mmap:
        if file.size <= SETUP_SECTS:
            raise file.error("the file is too short to be booted")
        blob = mmap.mmap(file.fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        self._board.closing.callback(blob.close)
        self._blobs.append(blob)
        return blob


def boot_order(pci: PciExpress) -> bytes:
    """fw_cfg's bootorder: Open Firmware paths of devices with a bootindex, lowest first."""
    entries: list[tuple[int, str]] = []
    for options in pci.occupants.options.values():
        index = getattr(options, "bootindex", None)
        if index is None:
            continue
        slot, function = options.addr
        bus = pci.occupants.bus(options)
        path = "/pci@i0cf8"
        for port in pci.host.root_ports:
            if port.secondary is bus:
                path += f"/pci-bridge@{port.devfn >> 3:x}"
                path += f",{port.devfn & 7:x}" if port.devfn & 7 else ""
        path += f"/scsi@{slot:x}" + (f",{function:x}" if function else "")
        entries.append((index, f"{path}/disk@0,0"))
    return b"".join(path.encode() + b"\n" for _, path in sorted(entries))[:-1] + (
        b"\0" if entries else b""
    )
