"""Which hangs of a guest are laid at the door of the lab's emulated CPU."""

from tests.machine_process import ENOUGH_FAULTS, cannot_fetch, kvm_events

HEAD = "# tracer: nop\n#\n"
STUCK = (
    "  stratovirt-426  [001] .....  12.345678: kvm_emulate_insn: 0:ffffffffc077d20c: (prot64)\n"
    "  stratovirt-426  [001] .....  12.345679: kvm_inj_exception: #PF (0x10)\n"
)
BUSY = "  stratovirt-429  [000] d....  12.345678: kvm_emulate_insn: 0:ffffffffa667:0f 30 (prot64)\n"


def test_a_vcpu_that_cannot_fetch_is_lost() -> None:
    assert cannot_fetch(kvm_events(HEAD + STUCK * ENOUGH_FAULTS))


def test_a_vcpu_that_only_exits_often_is_not() -> None:
    assert not cannot_fetch(kvm_events(HEAD + BUSY * ENOUGH_FAULTS * 2))


def test_one_that_failed_to_fetch_for_a_moment_is_not() -> None:
    assert not cannot_fetch(kvm_events(HEAD + STUCK * (ENOUGH_FAULTS - 1)))
