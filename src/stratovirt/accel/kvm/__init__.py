"""Linux KVM: ``machine`` is the accelerator, ``vcpu`` and ``vcpu_thread`` its vCPUs.

``lines`` has interrupts and doorbells, ``memslots`` memory; an architecture adds files of its name.
"""
