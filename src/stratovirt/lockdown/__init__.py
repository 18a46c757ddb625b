"""Lockdown before the guest runs: late needs are loaded, then the seccomp filter is installed."""

from stratovirt.lockdown.lockdown import lock_down

__all__ = ["lock_down"]
