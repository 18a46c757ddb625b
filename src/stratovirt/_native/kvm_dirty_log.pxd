# KVM's log of the pages that a guest writes.
from libc.errno cimport ENOMEM, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from stratovirt._native.dirty_log cimport PAGE_SHIFT, log_bitmap
from stratovirt._native.kernel cimport ioctl
from stratovirt._native.kvm_abi cimport *


cdef inline bint has_clear(int vm_fd) noexcept nogil:
    """Choose the log that KVM_CLEAR_DIRTY_LOG clears; False where only reading can clear it."""
    cdef kvm_enable_cap request
    if ioctl(vm_fd, KVM_CHECK_EXTENSION, <unsigned long>KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) <= 0:
        return False
    memset(&request, 0, sizeof(request))
    request.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
    request.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
    return ioctl(vm_fd, KVM_ENABLE_CAP, &request) == 0


cdef inline const char *move_dirty(int vm_fd, uint32_t slot, uint64_t gpa, uint64_t size,
                                   uint64_t *log, bint clearing, int *error) noexcept nogil:
    """Move a slot's dirty pages to `log`; NULL, or the name of what failed with `error`."""
    cdef uint64_t pages = size >> PAGE_SHIFT
    cdef uint64_t words = (pages + 63) >> 6
    cdef const char *failed = NULL
    cdef kvm_dirty_log got
    cdef kvm_clear_dirty_log clear
    cdef uint64_t *bits = <uint64_t *>calloc(words, sizeof(uint64_t))
    if bits == NULL:
        error[0] = ENOMEM
        return "KVM_GET_DIRTY_LOG"
    memset(&got, 0, sizeof(got))
    got.slot, got.dirty_bitmap = slot, bits
    if ioctl(vm_fd, KVM_GET_DIRTY_LOG, &got) < 0:
        failed = "KVM_GET_DIRTY_LOG"
    elif clearing:
        # A page that the guest writes between the two calls was in the first one's answer or stays
        # in the log: only what was read is cleared, and it is read by the caller after this.
        memset(&clear, 0, sizeof(clear))
        clear.slot, clear.num_pages, clear.dirty_bitmap = slot, <uint32_t>pages, bits
        if ioctl(vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0:
            failed = "KVM_CLEAR_DIRTY_LOG"
    error[0] = errno
    if failed == NULL:
        log_bitmap(log, gpa, bits, words)
    free(bits)
    return failed
