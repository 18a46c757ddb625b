KVM: tuple[int, ...]
VHOST: tuple[int, ...]
TAP: tuple[int, ...]
VFIO: tuple[int, ...]
FIOCLEX: int
FILES: tuple[int, ...]
TERMINAL: tuple[int, ...]
