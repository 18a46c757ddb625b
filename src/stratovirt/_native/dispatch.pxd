from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cpython.ref cimport PyObject

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_rwlock_t:
        pass
    int pthread_rwlock_init(pthread_rwlock_t *lock, void *attr)
    int pthread_rwlock_destroy(pthread_rwlock_t *lock)
    int pthread_rwlock_rdlock(pthread_rwlock_t *lock)
    int pthread_rwlock_wrlock(pthread_rwlock_t *lock)
    int pthread_rwlock_unlock(pthread_rwlock_t *lock)

# A native region answers without the GIL; `offset` counts from the start of the region.
ctypedef uint64_t (*native_read_t)(void *context, uint64_t offset, uint32_t size) noexcept nogil
ctypedef void (*native_write_t)(void *context, uint64_t offset, uint32_t size, uint64_t value) noexcept nogil

cdef class NativeOps:
    cdef native_read_t read
    cdef native_write_t write
    cdef void *context

cdef struct Entry:
    uint64_t start
    uint64_t last          # inclusive
    uint64_t offset        # of `start` inside its region
    native_read_t read
    native_write_t write
    void *context
    PyObject *region       # NULL for a native region; kept alive by Dispatcher._owners

cdef struct Table:
    Py_ssize_t count
    Entry *entries

cdef enum Space:
    MMIO = 0
    PIO = 1

cdef class Dispatcher:
    cdef Table _tables[2]
    cdef list _owners
    cdef pthread_rwlock_t _lock
    cdef object _vm_lock
    cdef object _failed
    cdef uint8_t _unassigned
    cdef Entry *_find(self, int space, uint64_t address, uint32_t size) noexcept nogil
    cdef int access_native(self, int space, uint64_t address, uint32_t size, bint is_write, uint8_t *data) noexcept nogil
    cdef int access(self, int space, uint64_t address, uint32_t size, bint is_write, uint8_t *data) except -1
