from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.kvm import KvmVm

KICKED: int
SHUTDOWN: int
HALTED: int
FAIL_ENTRY: int
INTERNAL_ERROR: int
POWER_OFF: int
RESET: int
CRASH: int
SYSTEM_EVENT: int
UNHANDLED: int
RUN_FAILED: int

class KvmVcpu:
    fd: int
    index: int
    exits: int
    def __init__(self, vm: KvmVm, index: int, dispatcher: Dispatcher) -> None: ...
    def close(self) -> None: ...
    def kick(self) -> None: ...
    def run(self) -> int: ...
    def describe_exit(self) -> str: ...
    def note_paused(self) -> None: ...

def prepare_vcpu_signals() -> None: ...
def block_signals_in_this_thread() -> None: ...
