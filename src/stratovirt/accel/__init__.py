"""Accelerators: the contract, Linux KVM (``kvm``) and the test client (``test``).

The contract is ``base`` (the machine), ``vcpu`` and ``interrupt_controller``.
"""
