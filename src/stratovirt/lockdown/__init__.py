"""Giving up what a machine does not need while its guest runs: the seccomp filter and before it."""

from stratovirt.lockdown.lockdown import lock_down

__all__ = ["lock_down"]
