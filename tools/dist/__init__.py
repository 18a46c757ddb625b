"""Builds the static executables; see docs/dist.md."""
