"""Routing of vCPU accesses: a sorted table of regions, replaced whole when the map changes.

A lookup takes a read lock for as long as it uses the table.  A native region is answered under
that lock; for a Python region the reference is taken under it and the call made afterwards,
under the VM lock.  The writer waits for the write lock without holding the GIL, so a reader
waiting for the GIL and a writer waiting for readers cannot block each other.
"""

from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset


cdef class NativeOps:
    """Read and write functions of a region that needs no GIL, with their context."""


cdef class Dispatcher:
    """Routes port and memory accesses of one machine.

    `vm_lock` is the lock that all Python device code runs under.  `unassigned` is the byte that
    reads of nothing return: 0xff on a real bus.  An exception of a region goes to
    `failed(region, exception)`; the access then reads as nothing, and the vCPU goes on.
    """

    def __cinit__(self, object vm_lock, object failed, int unassigned=0xFF):
        pthread_rwlock_init(&self._lock, NULL)
        self._vm_lock = vm_lock
        self._failed = failed
        self._unassigned = <uint8_t>unassigned
        self._owners = [[], []]
        self._tables[0].entries = NULL
        self._tables[1].entries = NULL

    def __dealloc__(self):
        free(self._tables[0].entries)
        free(self._tables[1].entries)
        pthread_rwlock_destroy(&self._lock)

    def publish(self, bint port_space, list entries):
        """Replace one space's map by `entries`: (start, size, offset, region), sorted, disjoint.

        A region is either a NativeOps or an object with ``read(offset, size) -> int`` and
        ``write(offset, size, value)``.
        """
        cdef int space = PIO if port_space else MMIO
        cdef Py_ssize_t count = len(entries)
        cdef Entry *fresh = <Entry *>malloc(max(count, 1) * sizeof(Entry))
        cdef Entry *old
        cdef Py_ssize_t i = 0
        cdef NativeOps native
        if fresh == NULL:
            raise MemoryError()
        owners = []
        for start, size, offset, region in entries:
            fresh[i].start = start
            fresh[i].last = start + size - 1
            fresh[i].offset = offset
            fresh[i].read = NULL
            fresh[i].write = NULL
            fresh[i].context = NULL
            fresh[i].region = NULL
            if isinstance(region, NativeOps):
                native = region
                fresh[i].read = native.read
                fresh[i].write = native.write
                fresh[i].context = native.context
            else:
                fresh[i].region = <PyObject *>region
            owners.append(region)
            i += 1
        with nogil:
            pthread_rwlock_wrlock(&self._lock)
            old = self._tables[space].entries
            self._tables[space].entries = fresh
            self._tables[space].count = count
            pthread_rwlock_unlock(&self._lock)
        free(old)
        # Only now: until the swap, a reader could still take a reference from the old table.
        self._owners[space] = owners

    cdef Entry *_find(self, int space, uint64_t address, uint32_t size) noexcept nogil:
        cdef Table *table = &self._tables[space]
        cdef Py_ssize_t low = 0, high = table.count, middle
        cdef Entry *entry
        while low < high:
            middle = (low + high) >> 1
            entry = &table.entries[middle]
            if address < entry.start:
                high = middle
            elif address > entry.last:
                low = middle + 1
            else:
                if size - 1 > entry.last - address:
                    return NULL
                return entry
        return NULL

    cdef int access_native(self, int space, uint64_t address, uint32_t size, bint is_write, uint8_t *data) noexcept nogil:
        """1 when the access is done; 0 when a Python region must answer it."""
        cdef Entry *entry
        cdef uint64_t value = 0
        cdef int done = 1
        pthread_rwlock_rdlock(&self._lock)
        entry = self._find(space, address, size)
        if entry == NULL:
            if not is_write:
                memset(data, self._unassigned, size)
        elif entry.region != NULL:
            done = 0
        elif is_write:
            memcpy(&value, data, size)
            entry.write(entry.context, address - entry.start + entry.offset, size, value)
        else:
            value = entry.read(entry.context, address - entry.start + entry.offset, size)
            memcpy(data, &value, size)
        pthread_rwlock_unlock(&self._lock)
        return done

    cdef int access(self, int space, uint64_t address, uint32_t size, bint is_write, uint8_t *data) except -1:
        cdef Entry *entry
        cdef uint64_t value = 0
        cdef uint64_t offset = 0
        cdef object region = None
        if self.access_native(space, address, size, is_write, data):
            return 0
        # Non-blocking in effect: a writer holds the lock for a few instructions, never for the GIL.
        pthread_rwlock_rdlock(&self._lock)
        entry = self._find(space, address, size)
        if entry != NULL and entry.region != NULL:
            region = <object>entry.region
            offset = address - entry.start + entry.offset
        pthread_rwlock_unlock(&self._lock)
        if region is None:
            # The map changed in between; the access goes where the new map says: nowhere.
            if not is_write:
                memset(data, self._unassigned, size)
            return 0
        with self._vm_lock:
            try:
                if is_write:
                    memcpy(&value, data, size)
                    region.write(offset, size, value)
                else:
                    value = <uint64_t>region.read(offset, size)
                    memcpy(data, &value, size)
            except Exception as error:
                if not is_write:
                    memset(data, self._unassigned, size)
                self._failed(region, error)
        return 0

    def read(self, bint port_space, uint64_t address, uint32_t size):
        """The value a vCPU would read; `size` is 1, 2, 4 or 8 bytes, little endian."""
        cdef uint64_t value = 0
        if size not in (1, 2, 4, 8):
            raise ValueError("an access is 1, 2, 4 or 8 bytes")
        self.access(PIO if port_space else MMIO, address, size, False, <uint8_t *>&value)
        return value

    def write(self, bint port_space, uint64_t address, uint32_t size, uint64_t value):
        """Store as a vCPU would; `size` is 1, 2, 4 or 8 bytes, little endian."""
        if size not in (1, 2, 4, 8):
            raise ValueError("an access is 1, 2, 4 or 8 bytes")
        self.access(PIO if port_space else MMIO, address, size, True, <uint8_t *>&value)
