"""What this host's KVM is known not to run, found out at the price of one system call."""

from __future__ import annotations

import os

from stratovirt.runtime.log import notice

PAGE_TABLE_KVM = "/sys/module/kvm_pvm"
"""A KVM without the processor's help: it emulates, and lacks what stock kernels use."""


def check_host() -> None:
    """Warn of a KVM at which stock kernels and firmware stop."""
    if os.path.exists(PAGE_TABLE_KVM):
        notice(
            "warning: this host's KVM works by page tables (kvm_pvm) and cannot run the "
            "instructions of stock kernels; the guest may stop early"
        )
