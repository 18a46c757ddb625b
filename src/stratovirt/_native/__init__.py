"""The data plane: Cython code that runs without the GIL and never touches a Python object.

``ram_mapping`` maps RAM, ``guest_memory`` checks addresses, ``dispatch`` routes vCPU accesses,
``kvm`` drives ``/dev/kvm``, ``virtqueue`` walks rings, ``block_engine`` serves virtio-blk.
"""
