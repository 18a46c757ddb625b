"""Lists of system calls for the seccomp filter, and the conditions on their arguments."""

from __future__ import annotations

import mmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stratovirt.architectures import BoardRow

    Condition = tuple[int, int, int]
    """Argument index, mask and value: the argument's bits under the mask equal the value."""
    Alternatives = list[list[Condition]]

WHOLE_INT = 0xFFFF_FFFF
"""Mask of an int argument: the filter sees 64 bits, of which the kernel ignores the upper 32."""
DESCRIPTOR_BITS = 30

ANY: Alternatives = [[]]


def no_code(protection: int) -> Alternatives:
    """Conditions for the argument with a mapping's protection: nothing can be executed."""
    return [[(protection, mmap.PROT_EXEC, 0)]]


def any_but(argument: int, forbidden: Iterable[int], bits: int) -> Alternatives:
    """Conditions for an int from 0 to 2**bits - 1 that is not in `forbidden`."""
    return [
        [(argument, WHOLE_INT & -size, first)]
        for first, size in _blocks(0, 1 << bits, set(forbidden))
    ]


def _blocks(first: int, size: int, forbidden: set[int]) -> Iterator[tuple[int, int]]:
    """[first, first + size) without `forbidden`, as the fewest power-of-two blocks."""
    inside = {number for number in forbidden if first <= number < first + size}
    if not inside:
        yield first, size
    elif size > 1:
        yield from _blocks(first, size // 2, inside)
        yield from _blocks(first + size // 2, size // 2, inside)


def requests(*groups: tuple[int, ...]) -> Alternatives:
    """Conditions for ioctl: its request is a number of these groups."""
    numbers = dict.fromkeys(number for group in groups for number in group)
    return [[(1, WHOLE_INT, number)] for number in numbers]


class Calls:
    """The calls of an architecture: those of every board, and what some boards have besides.

    `pci` are further calls, or wider ones, of a board with PCI, `test_accelerator` of the test
    accelerator; `preferred` are the most frequent calls, which the filter compares first,
    `declined` calls that fail with an errno.
    """

    __slots__ = ("_every_board", "_pci", "_test_accelerator", "declined", "preferred")

    def __init__(
        self,
        *,
        every_board: dict[str, Alternatives],
        pci: dict[str, Alternatives],
        test_accelerator: dict[str, Alternatives],
        preferred: tuple[str, ...],
        declined: dict[str, int],
    ) -> None:
        self._every_board, self._pci = every_board, pci
        self._test_accelerator = test_accelerator
        self.preferred = preferred
        self.declined = declined

    def of(self, board: BoardRow, accel: str, outputs: Iterable[int]) -> dict[str, Alternatives]:
        """The calls of this process; `outputs` are log-like descriptors, barred from fallocate."""
        calls = self._every_board | (self._pci if board.has_pci else {})
        calls["fallocate"] = any_but(0, outputs, DESCRIPTOR_BITS)
        if accel == "test":
            calls |= self._test_accelerator
        return calls
