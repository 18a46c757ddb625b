"""Interrupts from engines to the guest, raised without the GIL."""

from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport write

from stratovirt._native.atomics cimport fetch_and32, fetch_or32, load32, store32
from stratovirt._native.dispatch cimport NativeOps


cdef class InterruptStatus:
    """The InterruptStatus register of a virtio transport (virtio 1.2, section 4.2.2).

    Engines set bits from their threads; the guest reads and acknowledges them in native code.
    """

    def get(self):
        """The pending bits."""
        return load32(&self.bits)

    def acknowledge(self, uint32_t bits):
        """Clear `bits`."""
        fetch_and32(&self.bits, ~bits)

    def clear(self):
        """Clear all bits: the device was reset."""
        store32(&self.bits, 0)

    def set(self, uint32_t bits):
        """Make `bits` pending, without an interrupt."""
        fetch_or32(&self.bits, bits)

    def hold(self, uint32_t bits):
        """Let `bits` always read as set: somebody else raises the interrupt, and tells nobody.

        Looking at a queue for nothing is harmless, as the line is edge-triggered and not shared.
        """
        self.held = bits

    def native_ops(self):
        """The 8-byte region InterruptStatus (read-only) followed by InterruptACK (write-only)."""
        cdef NativeOps ops = NativeOps.__new__(NativeOps)
        ops.read = _read
        ops.write = _write
        ops.context = <void *>&self.bits
        return ops


cdef uint64_t _read(void *context, uint64_t offset, uint32_t size) noexcept nogil:
    if offset != 0 or size != 4:
        return 0
    return load32(<uint32_t *>context) | (<uint32_t *>context)[1]


cdef void _write(void *context, uint64_t offset, uint32_t size, uint64_t value) noexcept nogil:
    if offset == 4 and size == 4:
        fetch_and32(<uint32_t *>context, ~<uint32_t>value)


cdef class Notifier:
    """Raises one interrupt: sets `bits` in the status register, then signals eventfd `fd`."""

    def __cinit__(self, InterruptStatus status not None, uint32_t bits, int fd):
        self.status = status
        self._bits = bits
        self.fd = fd

    cdef void notify(self) noexcept nogil:
        cdef uint64_t one = 1
        fetch_or32(&self.status.bits, self._bits)
        # An eventfd refuses only when its counter is full, and then the signal is pending anyway.
        write(self.fd, &one, sizeof(one))

    def raise_interrupt(self):
        """Raise the interrupt from Python code."""
        self.notify()
