from stratovirt._native.interrupt import Notifier
from stratovirt._native.virtqueue import Virtqueue

class BlockQueue:
    def __init__(self, ring: Virtqueue, kick_fd: int, notifier: Notifier) -> None: ...
