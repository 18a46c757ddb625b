"""The data plane: Cython code that runs without the GIL and never touches a Python object.

``guest_memory`` maps RAM and checks guest addresses, ``dispatch`` routes vCPU accesses,
``kvm`` drives ``/dev/kvm``, ``virtqueue`` walks rings, ``block_engine`` serves virtio-blk.
"""
