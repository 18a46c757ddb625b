"""A loaded x86_64 kernel."""

from __future__ import annotations

from stratovirt.boot.image import KernelImage

COMMAND_LINE_SIZE = 2048
"""COMMAND_LINE_SIZE of the kernel, for images that do not state their own limit."""
INITRD_BELOW = 0x8000_0000
"""initrd_addr_max of every kernel, for images that do not state their own limit."""


class X8664Image(KernelImage):
    """A kernel with a 64-bit entry, and the setup header of a bzImage (empty in other formats)."""

    __slots__ = ("setup_header",)

    def __init__(
        self,
        *,
        entry: int,
        end: int,
        setup_header: bytes = b"",
        command_line_limit: int = COMMAND_LINE_SIZE - 1,
        initrd_below: int = INITRD_BELOW,
    ) -> None:
        super().__init__(
            entry=entry, end=end, command_line_limit=command_line_limit, initrd_below=initrd_below
        )
        self.setup_header = setup_header
