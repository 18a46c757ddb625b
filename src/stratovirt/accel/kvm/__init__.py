"""Linux KVM: ``machine`` is the accelerator, ``vcpu`` the threads, one file per architecture."""
