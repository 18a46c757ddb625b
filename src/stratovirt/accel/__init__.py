"""Accelerators: the contract (``base``), Linux KVM (``kvm``) and the test client (``test``)."""
