"""Network back ends: taps, with the kernel's vhost-net or without, and vhost-user."""
