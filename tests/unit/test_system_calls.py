"""The lists of system calls: what the kernel sees of an argument is what the filter looks at."""

from __future__ import annotations

import signal

import pytest

from stratovirt.architectures import BoardRow, load, of_this_host
from stratovirt.lockdown.calls import WHOLE_INT, Calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.lockdown.calls import Alternatives

CALLS: Calls = load(of_this_host().calls)
BOARDS = of_this_host().boards
OUTPUTS = (0, 1, 2, 5, 70)
HIGH = (0, 1 << 32, 0xFFFF_FFFF << 32)


def allows(alternatives: Alternatives, *arguments: int) -> bool:
    """What libseccomp makes of it: 64 bits compared under the mask."""
    return any(
        all(arguments[which] & mask == value for which, mask, value in conditions)
        for conditions in alternatives
    )


@pytest.mark.parametrize("high", HIGH)
def test_every_signal_but_the_filters_own_may_have_a_handler(high: int) -> None:
    call = CALLS.of(BOARDS["microvm"], "kvm", OUTPUTS)["rt_sigaction"]
    assert [n for n in range(128) if not allows(call, n | high)] == [signal.SIGSYS]


@pytest.mark.parametrize("high", HIGH)
def test_no_output_can_be_punched_and_all_else_can(high: int) -> None:
    call = CALLS.of(BOARDS["microvm"], "kvm", OUTPUTS)["fallocate"]
    asked = [*range(2000), *(1 << bit for bit in range(30)), *((1 << bit) - 1 for bit in range(30))]
    assert {fd for fd in asked if not allows(call, fd | high)} == set(OUTPUTS)


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_no_condition_looks_at_more_than_the_kernel_does(board: BoardRow) -> None:
    for name, alternatives in CALLS.of(board, "kvm", OUTPUTS).items():
        for conditions in alternatives:
            assert all(mask <= WHOLE_INT for _, mask, _ in conditions), name
