"""The machine's life cycle: status, stop and cont, reset, power, quit."""

from __future__ import annotations

from stratovirt.monitor.registry import NoArguments, command
from stratovirt.monitor.schema import RUN_STATE, Struct
from stratovirt.qmp.errors import QmpError
from stratovirt.vm import RESUMABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.monitor.session import Session

STATUS_INFO = Struct("StatusInfo", {"running": "bool", "singlestep": "bool", "status": RUN_STATE})


@command("qmp_capabilities")
def qmp_capabilities(_session: Session, _arguments: NoArguments) -> object:
    """End capability negotiation; there are none to choose."""
    return {}


@command("query-status", answer=STATUS_INFO)
def query_status(session: Session, _arguments: NoArguments) -> object:
    """Say whether the machine runs."""
    status = session.vm.status
    return {"running": status == "running", "singlestep": False, "status": status}


@command("stop")
def stop(session: Session, _arguments: NoArguments) -> object:
    """Pause the machine: no vCPU runs and no request is in flight when this returns."""
    session.vm.pause()
    return {}


@command("cont")
def cont(session: Session, _arguments: NoArguments) -> object:
    """Run the machine; one that KVM gave up on cannot."""
    vm = session.vm
    if vm.status not in ("running", *RESUMABLE):
        raise QmpError(f"the machine is in state {vm.status} and cannot go on")
    vm.resume()
    return {}


@command("system_reset")
def system_reset(session: Session, _arguments: NoArguments) -> object:
    """Start the guest anew, as the reset button does."""
    session.vm.reset()
    return {}


@command("system_powerdown")
def system_powerdown(session: Session, _arguments: NoArguments) -> object:
    """Press the power button; what follows is the guest's to decide."""
    session.vm.press_power_button()
    return {}


@command("quit")
def quit_(session: Session, _arguments: NoArguments) -> object:
    """End the machine and the process."""
    session.vm.request_shutdown(guest=False, reason="host-qmp-quit")
    return {}
