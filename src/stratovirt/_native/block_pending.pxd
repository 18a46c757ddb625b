# The requests that io_uring has in hand: a table of them, and how one goes on when a part of it is
# complete.
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uint8_t, uint16_t, uint64_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from stratovirt._native.disk cimport Disk
from stratovirt._native.iovecs cimport advance
from stratovirt._native.uring cimport Uring
from stratovirt._native.virtqueue cimport iovec

cdef enum:
    IN_FLIGHT = 256         # requests in the kernel's hands at once
    INLINE_PIECES = 32      # pieces of a request that need no memory of their own

cdef struct Pending:
    Pending *next         # of those that are free
    void *queue           # the BlockQueue it came from
    uint16_t head
    bint is_write
    bint is_sync          # an fdatasync, or a write's that was asked to be durable
    uint8_t *status
    uint64_t size
    uint64_t left
    uint64_t offset
    int fd
    iovec *iov
    uint32_t count
    iovec *heap
    iovec pieces[INLINE_PIECES]

cdef struct PendingTable:
    Pending *pool
    Pending *free
    int in_flight

cdef enum Step:
    AGAIN       # more of it is to be handed over
    COMPLETE
    FAILED


cdef inline int make_table(PendingTable *table) except -1:
    """Fill a zeroed table with free entries; `free_table` frees it."""
    cdef int i
    table.pool = <Pending *>calloc(IN_FLIGHT, sizeof(Pending))
    if table.pool == NULL:
        raise MemoryError()
    for i in range(IN_FLIGHT):
        table.pool[i].next = table.free
        table.free = &table.pool[i]
    return 0


cdef inline void free_table(PendingTable *table) noexcept nogil:
    free(table.pool)


cdef inline Pending *claim(PendingTable *table, void *queue, uint16_t head,
                           uint8_t *status) noexcept nogil:
    """An entry for a request of `queue`; NULL when all are in use."""
    cdef Pending *request = table.free
    if request == NULL:
        return NULL
    table.free = request.next
    table.in_flight += 1
    request.queue = queue
    request.head = head
    request.status = status
    request.is_write = request.is_sync = False
    request.size = request.left = 0
    request.heap = NULL
    return request


cdef inline void give_back(PendingTable *table, Pending *request) noexcept nogil:
    free(request.heap)
    request.heap = NULL
    request.next = table.free
    table.free = request
    table.in_flight -= 1


cdef inline bint keep_pieces(Pending *request, const iovec *iov, uint32_t count) noexcept nogil:
    """Copy the pieces that are not empty to where they stay; False without memory."""
    cdef uint32_t i
    request.iov = request.pieces
    if count > INLINE_PIECES:
        request.heap = <iovec *>malloc(count * sizeof(iovec))
        if request.heap == NULL:
            return False
        request.iov = request.heap
    request.count = 0
    for i in range(count):
        if iov[i].iov_len:
            request.iov[request.count] = iov[i]
            request.count += 1
    return True


cdef inline bint hand_over(PendingTable *table, Pending *request, Uring uring,
                           Disk disk) noexcept nogil:
    """Queue what is left of a request in io_uring; False when there is no room."""
    cdef uint64_t cookie = <uint64_t>(request - table.pool)
    if request.is_sync:
        return uring.datasync(disk.fd, cookie)
    if request.is_write:
        return uring.write(request.fd, request.iov, request.count, request.offset, cookie)
    return uring.read(request.fd, request.iov, request.count, request.offset, cookie)


cdef inline Step take_result(Pending *request, int result, Disk disk,
                             bint writeback) noexcept nogil:
    """Account for `result`, bytes or a negative errno, of what was handed over."""
    if result == -EINTR or result == -EAGAIN:
        return AGAIN
    if request.is_sync:
        return COMPLETE if result >= 0 else FAILED
    if result <= 0:
        return FAILED
    request.left -= result
    request.offset += result
    if request.left:
        # What is left after a short transfer may have lost its alignment.
        advance(&request.iov, &request.count, result)
        if disk.align:
            request.fd = disk.buffered_fd
        return AGAIN
    if request.is_write and not writeback:
        request.is_sync = True
        return AGAIN
    return COMPLETE
