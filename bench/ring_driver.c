/* The driver of one virtio-blk queue, as Linux's: requests of one kind kept in flight for a time.
 *
 * Everything lies in `ram`, which the device maps too.  Slots of a header, data and a status are
 * described once; each completion sends its slot out again with another sector.
 */
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RING 256
#define SLOT_BYTES 0x40000
#define STATUS 16
#define DATA 0x1000

struct desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct used_elem { uint32_t id, len; };
struct header { uint32_t type, reserved; uint64_t sector; };

struct rings {
    struct desc desc[RING];
    uint16_t avail_flags, avail_idx, avail_ring[RING], used_event;
    uint16_t pad;
    uint16_t used_flags, used_idx;
    struct used_elem used_ring[RING];
    uint16_t avail_event;
} __attribute__((aligned(16)));

struct result { uint64_t requests, errors, kicks, interrupts; double seconds; };

size_t avail_offset(void) { return offsetof(struct rings, avail_flags); }
size_t used_offset(void) { return offsetof(struct rings, used_flags); }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int signal_fd(int fd)
{
    uint64_t one = 1;
    return write(fd, &one, sizeof one) != sizeof one;
}

/* Keep `depth` requests of `bytes` in flight for `seconds`; `sectors` is the size of the disk. */
int drive(uint8_t *ram, uint64_t rings_gpa, uint64_t slots_gpa, int is_write, int sequential,
          unsigned depth, uint32_t bytes, uint64_t sectors, int kick_fd, int call_fd,
          double seconds, struct result *result)
{
    struct rings *rings = (struct rings *)(ram + rings_gpa);
    uint64_t state = 88172645463325252ull, next_spot = 0, spots = sectors * 512 / bytes;
    uint16_t seen = __atomic_load_n(&rings->used_idx, __ATOMIC_ACQUIRE);
    uint16_t offered = rings->avail_idx, known = offered;
    unsigned in_flight = 0, slot;
    double start = now();
    int ending = 0;

    memset(result, 0, sizeof *result);
    for (slot = 0; slot < depth; slot++) {
        uint64_t at = slots_gpa + (uint64_t)slot * SLOT_BYTES;
        struct desc *d = &rings->desc[3 * slot];
        d[0] = (struct desc){at, sizeof(struct header), 1, 3 * slot + 1};
        d[1] = (struct desc){at + DATA, bytes, is_write ? 1 : 3, 3 * slot + 2};
        d[2] = (struct desc){at + STATUS, 1, 2, 0};
        *(struct header *)(ram + at) = (struct header){is_write, 0, 0};
        rings->avail_ring[offered++ % RING] = 3 * slot;
        in_flight++;
    }
    while (in_flight) {
        uint16_t used;
        __atomic_store_n(&rings->avail_idx, offered, __ATOMIC_RELEASE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (offered != known) {
            uint16_t event = __atomic_load_n(&rings->avail_event, __ATOMIC_RELAXED);
            if ((uint16_t)(offered - event - 1) < (uint16_t)(offered - known)) {
                result->kicks++;
                if (signal_fd(kick_fd))
                    return -1;
            }
            known = offered;
        }
        /* As Linux does: ask for an interrupt, look once more, and only then sleep. */
        rings->used_event = seen;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        used = __atomic_load_n(&rings->used_idx, __ATOMIC_ACQUIRE);
        if (used == seen) {
            struct pollfd call = {call_fd, POLLIN, 0};
            uint64_t count;
            result->interrupts++;
            if (poll(&call, 1, 10000) != 1 || read(call_fd, &count, sizeof count) != sizeof count)
                return -1;
            continue;
        }
        if (!ending && now() - start > seconds)
            ending = 1;
        for (; seen != used; seen++) {
            uint32_t id = rings->used_ring[seen % RING].id;
            uint8_t *at = ram + slots_gpa + (uint64_t)(id / 3) * SLOT_BYTES;
            result->requests++;
            result->errors += at[STATUS] != 0;
            in_flight--;
            if (ending)
                continue;
            next_spot = sequential ? (next_spot + 1) % spots : next_random(&state) % spots;
            ((struct header *)at)->sector = next_spot * (bytes / 512);
            rings->avail_ring[offered++ % RING] = id;
            in_flight++;
        }
    }
    result->seconds = now() - start;
    return 0;
}
