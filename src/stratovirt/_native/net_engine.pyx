"""One queue pair of a network card, moved between its rings and a tap without the GIL.

What the guest sends goes out straight from its memory.  What comes in is read into a buffer first, so that its
size is known before the ring is touched, and waits there when the driver has no room for it.
"""

from libc.errno cimport EAGAIN, EBADFD, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from posix.unistd cimport read, write

from stratovirt._native.guest_memory cimport wrote
from stratovirt._native.interrupt cimport Notifier
from stratovirt._native.io_loop cimport EPOLLET, EPOLLIN, EPOLLOUT, Engine, Watch, ready_t
from stratovirt._native.kernel cimport failed
from stratovirt._native.virtqueue cimport RING_BAD_REQUEST, Chain, Virtqueue, iovec

cdef extern from "linux/virtio_net.h" nogil:
    """
    enum {
        HEADER_BYTES = sizeof(struct virtio_net_hdr_v1),
        NUM_BUFFERS = offsetof(struct virtio_net_hdr_v1, num_buffers)
    };
    """
    int HEADER_BYTES, NUM_BUFFERS

cdef extern from "sys/uio.h" nogil:
    ssize_t writev(int fd, const iovec *iov, int count)

cdef enum:
    ETHERNET_BYTES = 14
    PACKET = 65536 + 128    # the largest that a tap gives: 64 KiB with its headers
    BATCH = 64              # packets in one direction before the other has its turn
    MOST_ADDRESSES = 64     # MAC addresses in each filter table
    MOST_CHAINS = 1024

cdef struct Filter:
    bint promiscuous
    bint all_multicast
    bint all_unicast
    bint no_multicast
    bint no_unicast
    bint no_broadcast
    bint vlans_filtered
    uint8_t own[6]
    uint32_t unicast_count
    uint32_t multicast_count
    uint8_t unicast[MOST_ADDRESSES][6]
    uint8_t multicast[MOST_ADDRESSES][6]
    uint8_t vlans[512]


cdef class NetEngine(Engine):
    """Serves one pair while a loop drives it.

    `mergeable` says whether a packet may span several buffers (VIRTIO_NET_F_MRG_RXBUF).  When a
    ring breaks or the tap goes away the engine stops and signals `failure_fd`.
    """

    cdef Virtqueue _rx
    cdef Virtqueue _tx
    cdef Watch _rx_kick
    cdef Watch _tx_kick
    cdef Watch _tap
    cdef Notifier _rx_notifier
    cdef Notifier _tx_notifier
    cdef bint _mergeable
    cdef int _failure_fd
    cdef bint _is_deaf
    cdef Filter _filter
    cdef Chain *_chain
    cdef uint8_t *_packet
    cdef size_t _packet_size
    cdef bint _tap_is_full
    cdef readonly bint tap_is_gone
    cdef readonly uint64_t received
    cdef readonly uint64_t sent
    cdef readonly uint64_t dropped

    def __cinit__(self, Virtqueue rx not None, int rx_kick, Virtqueue tx not None, int tx_kick,
                  Notifier rx_notifier not None, Notifier tx_notifier not None, int tap, *, bint mergeable, int failure_fd):
        self._rx, self._tx = rx, tx
        self._rx_kick.fd, self._tx_kick.fd, self._tap.fd = rx_kick, tx_kick, tap
        self._rx_kick.ready = <ready_t>_has_room
        self._tx_kick.ready = <ready_t>_has_packets
        self._tap.ready = <ready_t>_tap_ready
        self._rx_kick.context = self._tx_kick.context = self._tap.context = <void *>self
        self._rx_notifier, self._tx_notifier = rx_notifier, tx_notifier
        self._mergeable = mergeable
        self._failure_fd = failure_fd
        self._filter.promiscuous = True
        self._chain = <Chain *>calloc(1, sizeof(Chain))
        self._packet = <uint8_t *>calloc(1, PACKET)
        if self._chain == NULL or self._packet == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self._chain)
        free(self._packet)

    def set_filter(self, *, bytes own not None, bint promiscuous, bint all_multicast,
                   bint all_unicast, bint no_multicast, bint no_unicast, bint no_broadcast,
                   list unicast not None, list multicast not None, bytes vlans):
        """Set the filter of received packets; only while the engine does not run.

        `vlans` is a bitmap of 4096 bits, or None when tags are not looked at.
        """
        cdef bytes address
        if len(own) != 6 or any(len(one) != 6 for one in (*unicast, *multicast)):
            raise ValueError("an address has six bytes")
        if len(unicast) > MOST_ADDRESSES or len(multicast) > MOST_ADDRESSES:
            raise ValueError("too many addresses")
        self._filter.promiscuous = promiscuous
        self._filter.all_multicast, self._filter.all_unicast = all_multicast, all_unicast
        self._filter.no_multicast, self._filter.no_unicast = no_multicast, no_unicast
        self._filter.no_broadcast = no_broadcast
        memcpy(self._filter.own, <char *>own, 6)
        self._filter.unicast_count = len(unicast)
        self._filter.multicast_count = len(multicast)
        for i, address in enumerate(unicast):
            memcpy(self._filter.unicast[i], <char *>address, 6)
        for i, address in enumerate(multicast):
            memcpy(self._filter.multicast[i], <char *>address, 6)
        self._filter.vlans_filtered = vlans is not None
        if vlans is not None:
            if len(vlans) != sizeof(self._filter.vlans):
                raise ValueError("a VLAN table has 512 bytes")
            memcpy(self._filter.vlans, <char *>vlans, sizeof(self._filter.vlans))

    cdef int start(self) except -1:
        """Watch the tap and the doorbells; what is there already is served too."""
        self._is_deaf = False
        _kick(&self._rx_kick)
        _kick(&self._tx_kick)
        # Edge-triggered: eventfds need not be read, and a tap whose packet waits for room in the
        # ring does not wake anybody.
        for index in range(3):
            events = EPOLLIN | EPOLLET | (EPOLLOUT if index == 2 else 0)
            if self._loop.watch(self._watch_of(index), events) < 0:
                raise failed("epoll_ctl")
        return 0

    cdef Watch *_watch_of(self, int index) noexcept nogil:
        if index == 2:
            return &self._tap
        return &self._tx_kick if index else &self._rx_kick

    cdef bint stop(self) noexcept nogil:
        """Stop at once: no packet is in flight between two rounds."""
        cdef int index
        self._is_deaf = True
        for index in range(3):
            self._loop.unwatch(self._watch_of(index))
        return True

    cdef void _serve(self, bint receive, bint transmit) noexcept nogil:
        """Move packets; a direction that has more than its share asks to be called again."""
        cdef uint64_t one = 1
        cdef int tx = 0, rx = 0
        if self._is_deaf:
            return
        if transmit:
            tx = self._transmit()
        if receive and tx >= 0:
            rx = self._receive()
        if tx < 0 or rx < 0:
            self.stop()
            write(self._failure_fd, &one, sizeof(one))
            return
        if tx:
            _kick(&self._tx_kick)
        if rx:
            _kick(&self._rx_kick)

    cdef int _transmit(self) noexcept nogil:
        """Send what the guest offers; 1 when there may be more, 0 when not, -1 when broken."""
        cdef int got, sent = 0
        cdef ssize_t done
        cdef bint notify = False
        self._tap_is_full = False
        self._tx.disable_kicks()
        while sent < BATCH:
            got = self._tx.pop(self._chain)
            if got == 0:
                if self._tx.enable_kicks():
                    self._tx.disable_kicks()
                    continue
                break
            if got > 0 and self._chain.writable:
                self._tx.error = RING_BAD_REQUEST
                got = -1
            if got < 0:
                return -1
            done = self._send()
            if done < 0 and errno == EAGAIN:
                # The chain stays the next one, and the tap says when it has room.
                self._tx._last_avail -= 1
                self._tap_is_full = True
                got = 0
                break
            if done < 0 and errno == EBADFD:
                self._tx._last_avail -= 1
                self.tap_is_gone = True
                return -1
            sent += 1
            self._tx.push(self._chain.head, 0)
            notify |= self._tx.should_notify()
        if notify:
            self._tx_notifier.notify()
        return 1 if sent == BATCH else 0

    cdef ssize_t _send(self) noexcept nogil:
        cdef ssize_t done
        if self._chain.readable_bytes < HEADER_BYTES + ETHERNET_BYTES:
            self.dropped += 1
            return 0
        while True:
            done = writev(self._tap.fd, self._chain.iov, <int>self._chain.readable)
            if done < 0 and errno == EINTR:
                continue
            if done < 0 and errno not in (EAGAIN, EBADFD):
                # A header that makes no sense, or an interface that is down: this packet's loss.
                self.dropped += 1
                return 0
            if done >= 0:
                self.sent += 1
            return done

    cdef int _receive(self) noexcept nogil:
        """Deliver what the tap has; 1 when there may be more, 0 when not, -1 when broken."""
        cdef ssize_t got
        cdef int seen = 0, result
        cdef bint notify = False
        while seen < BATCH:
            if self._packet_size == 0:
                got = read(self._tap.fd, self._packet, PACKET)
                if got < 0:
                    if errno == EINTR:
                        continue
                    if errno == EBADFD:
                        self.tap_is_gone = True
                        return -1
                    break
                if got < HEADER_BYTES + ETHERNET_BYTES or not self._is_wanted(<size_t>got):
                    seen += 1
                    continue
                self._packet_size = <size_t>got
            result = self._deliver()
            if result < 0:
                return -1
            if result == 0:
                break
            self._packet_size = 0
            self.received += 1
            seen += 1
            notify |= self._rx.should_notify()
        if notify:
            self._rx_notifier.notify()
        return 1 if seen == BATCH else 0

    cdef int _deliver(self) noexcept nogil:
        """Put the packet into the guest's buffers: 1 done, 0 no room, -1 broken."""
        cdef uint16_t heads[MOST_CHAINS]
        cdef uint32_t lengths[MOST_CHAINS]
        cdef uint8_t *first = NULL
        cdef size_t done = 0, piece, here
        cdef uint32_t used = 0, i
        cdef int got
        while done < self._packet_size:
            got = self._rx.pop(self._chain)
            if got == 0:
                if self._rx.enable_kicks():
                    continue
                # All or nothing: what was taken for this packet goes back.
                self._rx._last_avail -= <uint16_t>used
                return 0
            if got > 0 and (self._chain.readable or self._chain.writable_bytes < HEADER_BYTES
                            or used == MOST_CHAINS):
                self._rx.error = RING_BAD_REQUEST
                got = -1
            if got < 0:
                return -1
            if used == 0:
                first = <uint8_t *>self._chain.iov[0].iov_base
                if self._chain.iov[0].iov_len < HEADER_BYTES:
                    self._rx.error = RING_BAD_REQUEST
                    return -1
            here = 0
            for i in range(self._chain.writable):
                piece = min(self._chain.iov[i].iov_len, self._packet_size - done)
                memcpy(self._chain.iov[i].iov_base, self._packet + done, piece)
                wrote(self._rx._memory, self._chain.iov[i].iov_base, piece)
                done += piece
                here += piece
            heads[used] = self._chain.head
            lengths[used] = <uint32_t>here
            used += 1
            if not self._mergeable and done < self._packet_size:
                # It does not fit into what the driver offers; the buffer is the next packet's.
                self._rx._last_avail -= 1
                self.dropped += 1
                return 1
        first[NUM_BUFFERS] = <uint8_t>(used & 0xFF)
        first[NUM_BUFFERS + 1] = <uint8_t>(used >> 8)
        wrote(self._rx._memory, first + NUM_BUFFERS, 2)
        for i in range(used):
            self._rx.push(heads[i], lengths[i])
        return 1

    cdef bint _is_wanted(self, size_t size) noexcept nogil:
        """The filters of virtio 1.2, section 5.1.6.5."""
        cdef uint8_t *frame = self._packet + HEADER_BYTES
        cdef Filter *wanted = &self._filter
        cdef uint32_t i, vlan
        if wanted.promiscuous:
            return True
        if wanted.vlans_filtered and frame[12] == 0x81 and frame[13] == 0 \
                and size >= HEADER_BYTES + 18:
            vlan = (<uint32_t>frame[14] << 8 | frame[15]) & 0xFFF
            if not wanted.vlans[vlan >> 3] >> (vlan & 7) & 1:
                return False
        if frame[0] & 1:
            if frame[0] & frame[1] & frame[2] & frame[3] & frame[4] & frame[5] == 0xFF:
                return not wanted.no_broadcast
            if wanted.no_multicast:
                return False
            if wanted.all_multicast:
                return True
            for i in range(wanted.multicast_count):
                if memcmp(frame, wanted.multicast[i], 6) == 0:
                    return True
            return False
        if wanted.no_unicast:
            return False
        if wanted.all_unicast or memcmp(frame, wanted.own, 6) == 0:
            return True
        for i in range(wanted.unicast_count):
            if memcmp(frame, wanted.unicast[i], 6) == 0:
                return True
        return False


cdef void _kick(Watch *doorbell) noexcept nogil:
    cdef uint64_t one = 1
    write(doorbell.fd, &one, sizeof(one))


cdef void _has_room(NetEngine engine, int _tag, uint32_t _events) noexcept nogil:
    engine._serve(True, False)


cdef void _has_packets(NetEngine engine, int _tag, uint32_t _events) noexcept nogil:
    engine._serve(False, True)


cdef void _tap_ready(NetEngine engine, int _tag, uint32_t _events) noexcept nogil:
    engine._serve(True, engine._tap_is_full)
