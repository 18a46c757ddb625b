"""Kinds of addresses: of a network card, and of PCI functions in the machine and on the host."""

from __future__ import annotations

from stratovirt.config.kinds import Kind


class MacAddress(Kind["bytes"]):
    """The address of one network card: six bytes."""

    allowed = "a unicast MAC address such as 52:54:00:12:34:56"

    def parse(self, text: str) -> bytes:
        """The six bytes."""
        pieces = text.split(":")
        if len(pieces) != 6 or not all(len(piece) == 2 for piece in pieces):
            raise ValueError(self.allowed)
        try:
            address = bytes.fromhex("".join(pieces))
        except ValueError:
            raise ValueError(self.allowed) from None
        if len(address) != 6 or address[0] & 1 or not any(address):
            raise ValueError(self.allowed)
        return address


class PciAddress(Kind["tuple[int, int]"]):
    """Slot and function on a PCI bus: ``0x3.0x0``, ``3.0`` or ``3``."""

    allowed = "SLOT.FUNCTION, slot 0x0 to 0x1f and function 0x0 to 0x7"

    def parse(self, text: str) -> tuple[int, int]:
        """(slot, function)."""
        slot_text, dot, function_text = text.partition(".")
        # As QEMU reads it: hexadecimal, with or without 0x.
        slot = self._hexadecimal(slot_text)
        function = self._hexadecimal(function_text) if dot else 0
        if slot > 0x1F or function > 7:
            raise ValueError(self.allowed)
        return slot, function

    def _hexadecimal(self, text: str) -> int:
        digits = text[2:] if text[:2] in ("0x", "0X") else text
        if not digits or len(digits) > 2 or set(digits) - set("0123456789abcdefABCDEF"):
            raise ValueError(self.allowed)
        return int(digits, 16)


class HostPciAddress(Kind["str"]):
    """A PCI function of the host: ``0000:1a:00.3``."""

    allowed = "DOMAIN:BUS:SLOT.FUNCTION in hexadecimal, such as 0000:1a:00.3"

    def parse(self, text: str) -> str:
        """The address in the kernel's spelling, with its domain."""
        if text.count(":") == 1:
            text = f"0000:{text}"
        pieces = text.replace(".", ":").split(":")
        digits = set("0123456789abcdefABCDEF")
        widths = [len(piece) for piece in pieces]
        if widths != [4, 2, 2, 1] or text[-2] != "." or any(set(p) - digits for p in pieces):
            raise ValueError(self.allowed)
        if int(pieces[2], 16) > 0x1F or int(pieces[3], 16) > 7:
            raise ValueError(self.allowed)
        return text.lower()
