"""A check for hosts whose KVM cannot run stock kernels, by one system call."""

from __future__ import annotations

import os

from stratovirt.runtime.log import notice

PAGE_TABLE_KVM = "/sys/module/kvm_pvm"
"""The module of a KVM without hardware virtualization; it lacks instructions of stock kernels."""


def check_host() -> None:
    """Warn of a KVM that cannot run stock kernels and firmware."""
    if os.path.exists(PAGE_TABLE_KVM):
        notice(
            "warning: this host's KVM works by page tables (kvm_pvm) and cannot run the "
            "instructions of stock kernels; the guest may stop early"
        )
