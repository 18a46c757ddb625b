"""The lab: a real Linux host with real KVM, started in seconds inside QEMU's TCG.

It lets any Linux machine, with or without a usable ``/dev/kvm``, boot stock guests under
``stratovirt``.  ``cli`` is the command; ``cache`` and ``kernels`` fetch and unpack Debian's
kernels, ``images`` builds what boots, ``host`` runs a command in the lab, ``demo`` is
``make demo``.
"""
