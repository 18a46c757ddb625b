"""The host's side of a disk: an image, and what can be done with it here and now.

All results are the statuses of virtio-blk (virtio 1.2, section 5.2.6); what a driver asks for is
checked against the disk's size first.
"""

from libc.errno cimport EINTR, EINVAL, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.unistd cimport fdatasync

from stratovirt._native.guest_memory cimport GuestMemory
from stratovirt._native.iovecs cimport advance, filled, is_aligned, take
from stratovirt._native.kernel cimport ioctl, os_error
from stratovirt._native.virtqueue cimport Chain, iovec

cdef extern from "sys/uio.h" nogil:
    ssize_t preadv2(int fd, const iovec *iov, int count, long offset, int flags)
    ssize_t pwritev(int fd, const iovec *iov, int count, long offset)

cdef extern from "fcntl.h" nogil:
    int fallocate(int fd, int mode, long offset, long length)
    int FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE

cdef extern from "linux/fs.h" nogil:
    unsigned long BLKSSZGET

cdef extern from "sys/stat.h" nogil:
    cdef struct statx_t "statx":
        uint32_t stx_mask
        uint32_t stx_dio_mem_align
        uint32_t stx_dio_offset_align
    int statx(int folder, const char *path, int flags, unsigned int mask, statx_t *found)
    unsigned int STATX_DIOALIGN
    int AT_EMPTY_PATH

cdef extern from "linux/virtio_blk.h" nogil:
    uint32_t VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
    int VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP

cdef enum:
    RANGE_BYTES = 16       # struct virtio_blk_discard_write_zeroes
    DISCARD_RANGES = 16    # of one discard or write-zeroes request
    ZERO_CHUNK = 65536     # written at once where the file system cannot zero a range itself

cdef struct Range:
    uint64_t sector
    uint32_t count
    uint32_t flags

cdef uint8_t zeroes[ZERO_CHUNK]

MOST_RANGES = DISCARD_RANGES
SECTOR = SECTOR_BYTES

cdef enum:
    COMMON_ALIGNMENT = 4096  # what every Linux file system and disk accepts for O_DIRECT


def direct_alignment(int fd):
    """The alignment (bytes) of buffers and offsets that O_DIRECT demands of this file.

    Before Linux 6.1, and where the file system does not say, the one that all accept.
    """
    cdef statx_t found
    if statx(fd, b"", AT_EMPTY_PATH, STATX_DIOALIGN, &found) == 0 \
            and found.stx_mask & STATX_DIOALIGN and found.stx_dio_offset_align:
        return max(found.stx_dio_mem_align, found.stx_dio_offset_align)
    return COMMON_ALIGNMENT


def device_block_size(int fd):
    """The logical block (bytes) of a block device; raises OSError."""
    cdef int size = 0
    if ioctl(fd, BLKSSZGET, &size) != 0:
        raise os_error(errno)
    return size


def can_punch_holes(int fd, uint64_t size):
    """Whether ranges of the file can be given back; asks about the part behind its end."""
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <long>size, 4096) == 0


cdef class Disk:
    """An image of `capacity` 512-byte sectors; one of 0 sectors is no medium at all.

    `direct_align` is zero or the alignment (bytes) that fd's O_DIRECT demands; requests that do
    not meet it go through `buffered_fd`.  Ranges of whole blocks of `block_size` bytes can be
    discarded or zeroed by the host.  The descriptors stay the caller's.
    """

    def __cinit__(self, int fd, int buffered_fd, *, uint32_t direct_align, uint64_t capacity,
                  bint readonly, uint32_t block_size=SECTOR_BYTES):
        self.fd, self.buffered_fd = fd, buffered_fd
        self.align = direct_align
        self.capacity = capacity
        self.readonly = readonly
        self.block_size = block_size

    cdef int check_range(self, uint64_t sector, uint64_t size, bint is_write) noexcept nogil:
        """VIRTIO_BLK_S_OK when the transfer lies on the disk and may be done."""
        cdef uint64_t sectors = size // SECTOR_BYTES
        if is_write and self.readonly:
            return VIRTIO_BLK_S_IOERR
        if size % SECTOR_BYTES or sector > self.capacity or sectors > self.capacity - sector:
            return VIRTIO_BLK_S_IOERR
        return VIRTIO_BLK_S_OK

    cdef int fd_for(self, const iovec *iov, uint32_t count, uint64_t offset) noexcept nogil:
        """The descriptor that takes these buffers at this offset."""
        if self.align and not is_aligned(iov, count, offset, self.align):
            return self.buffered_fd
        return self.fd

    cdef int transfer(self, GuestMemory memory, uint64_t sector, iovec *iov, uint32_t count,
                      uint64_t size, bint is_write) noexcept nogil:
        """Read into guest memory or write from it, waiting for it."""
        cdef uint64_t offset = sector * SECTOR_BYTES
        cdef int fd = self.fd_for(iov, count, offset)
        cdef ssize_t done
        while size:
            while count and iov.iov_len == 0:
                iov += 1
                count -= 1
            if is_write:
                done = pwritev(fd, iov, <int>count, offset)
            else:
                done = preadv2(fd, iov, <int>count, offset, 0)
                # What a failed read has left is anybody's guess.
                filled(memory, iov, count, done if done > 0 else size)
            if done < 0 and errno == EINTR:
                continue
            if done <= 0:
                return VIRTIO_BLK_S_IOERR
            size -= done
            offset += done
            # What is left after a short transfer may have lost its alignment.
            if size and self.align:
                fd = self.buffered_fd
            advance(&iov, &count, done)
        return VIRTIO_BLK_S_OK

    cdef int flush(self) noexcept nogil:
        """Make durable what was written, whichever descriptor it took: they are one file."""
        return VIRTIO_BLK_S_OK if fdatasync(self.fd) == 0 else VIRTIO_BLK_S_IOERR

    cdef int for_ranges(self, Chain *chain, uint64_t size, bint zero) noexcept nogil:
        """Discard, or write zeroes to, the ranges that `size` bytes of the chain name."""
        cdef Range part
        cdef int status
        if self.readonly:
            return VIRTIO_BLK_S_IOERR
        if size == 0 or size % RANGE_BYTES or size > RANGE_BYTES * DISCARD_RANGES:
            return VIRTIO_BLK_S_UNSUPP
        while size:
            take(chain.iov, chain.readable, <uint8_t *>&part, RANGE_BYTES)
            size -= RANGE_BYTES
            if part.flags & ~(VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP if zero else 0):
                return VIRTIO_BLK_S_UNSUPP
            if part.sector > self.capacity or part.count > self.capacity - part.sector:
                return VIRTIO_BLK_S_IOERR
            if part.count == 0:
                continue
            if zero:
                status = self._zero(part.sector, part.count,
                                    part.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0)
            else:
                status = self._discard(part.sector, part.count)
            if status != VIRTIO_BLK_S_OK:
                return status
        return VIRTIO_BLK_S_OK

    cdef int _discard(self, uint64_t sector, uint32_t count) noexcept nogil:
        """Give back the whole blocks of a range; the rest, and what the host cannot, it keeps."""
        cdef uint64_t start = sector * SECTOR_BYTES
        cdef uint64_t end = start + <uint64_t>count * SECTOR_BYTES
        cdef int status
        start = self._round_up(start)
        end -= end % self.block_size
        if start >= end:
            return VIRTIO_BLK_S_OK
        status = self._allocate(FALLOC_FL_PUNCH_HOLE, start, end - start)
        # A discard is a hint (virtio 1.2, section 5.2.6.2), and nothing was lost.
        return VIRTIO_BLK_S_OK if status == VIRTIO_BLK_S_UNSUPP else status

    cdef int _zero(self, uint64_t sector, uint32_t count, bint unmap) noexcept nogil:
        """Have the host zero the whole blocks of a range, and write the rest."""
        cdef uint64_t start = sector * SECTOR_BYTES
        cdef uint64_t end = start + <uint64_t>count * SECTOR_BYTES
        cdef uint64_t first = self._round_up(start), last = end - end % self.block_size
        cdef int status
        if first >= last:
            return self._write_zeroes(start, end - start)
        status = self._allocate(
            FALLOC_FL_PUNCH_HOLE if unmap else FALLOC_FL_ZERO_RANGE, first, last - first)
        if status == VIRTIO_BLK_S_UNSUPP:
            return self._write_zeroes(start, end - start)
        if status == VIRTIO_BLK_S_OK:
            status = self._write_zeroes(start, first - start)
        if status == VIRTIO_BLK_S_OK:
            status = self._write_zeroes(last, end - last)
        return status

    cdef uint64_t _round_up(self, uint64_t offset) noexcept nogil:
        return (offset + self.block_size - 1) // self.block_size * self.block_size

    cdef int _write_zeroes(self, uint64_t offset, uint64_t size) noexcept nogil:
        cdef iovec piece
        cdef ssize_t done
        while size:
            piece.iov_base = zeroes
            piece.iov_len = min(size, <uint64_t>ZERO_CHUNK)
            done = pwritev(self.buffered_fd, &piece, 1, offset)
            if done < 0 and errno == EINTR:
                continue
            if done <= 0:
                return VIRTIO_BLK_S_IOERR
            offset += done
            size -= done
        return VIRTIO_BLK_S_OK

    cdef int _allocate(self, int mode, uint64_t offset, uint64_t size) noexcept nogil:
        cdef int result
        while True:
            result = fallocate(self.fd, mode | FALLOC_FL_KEEP_SIZE, <long>offset, <long>size)
            if result == 0:
                return VIRTIO_BLK_S_OK
            if errno != EINTR:
                # Not this mode, or not for these blocks: there are other ways.
                return (VIRTIO_BLK_S_UNSUPP if errno == EOPNOTSUPP or errno == EINVAL
                        else VIRTIO_BLK_S_IOERR)
