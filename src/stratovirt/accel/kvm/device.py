"""Opens /dev/kvm and checks that it offers what this VMM needs."""

from __future__ import annotations

from stratovirt._native.kvm import API_VERSION, Kvm
from stratovirt.accel.base import AccelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    AnyKvm = TypeVar("AnyKvm", bound=Kvm)

KVM_DEVICE = "/dev/kvm"


def open_kvm(kind: type[AnyKvm]) -> AnyKvm:
    """Open /dev/kvm and check that it offers what this VMM needs; raises AccelError."""
    try:
        system = kind(KVM_DEVICE)
    except FileNotFoundError as error:
        raise AccelError(
            f"-accel kvm: {KVM_DEVICE} does not exist; load the kvm module "
            "or enable virtualization in the firmware"
        ) from error
    except PermissionError as error:
        raise AccelError(
            f"-accel kvm: no permission to open {KVM_DEVICE}; add the user to the group kvm"
        ) from error
    except OSError as error:
        raise AccelError(f"-accel kvm: cannot open {KVM_DEVICE}: {error.strerror}") from error
    try:
        _check(system)
    except OSError as error:
        system.close()
        raise AccelError(f"-accel kvm: {KVM_DEVICE}: {error.strerror}") from error
    except AccelError:
        system.close()
        raise
    return system


def _check(system: Kvm) -> None:
    if system.api_version != API_VERSION:
        raise AccelError(
            f"-accel kvm: {KVM_DEVICE} speaks API version {system.api_version}, not {API_VERSION}"
        )
    missing = system.missing_capabilities()
    if missing:
        raise AccelError(f"-accel kvm: this kernel's KVM lacks {', '.join(missing)}")
