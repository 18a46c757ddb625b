# Memory ordering for words that the guest or another thread reads at the same time.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include CPU_HEADER
    static inline uint16_t load_acquire16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void store_release16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void full_barrier(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline uint32_t fetch_or32(uint32_t *p, uint32_t v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
    static inline uint32_t fetch_and32(uint32_t *p, uint32_t v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }
    static inline uint32_t load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline uint64_t load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline uint64_t fetch_or64(uint64_t *p, uint64_t v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
    static inline uint64_t fetch_and64(uint64_t *p, uint64_t v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }
    /* The fence is the compiler's: what the program writes before stays before the look. */
    static inline uint64_t *look_up(uint64_t *const *p) { __atomic_signal_fence(__ATOMIC_SEQ_CST); return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void publish(uint64_t **p, uint64_t *v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline void store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    """
    void relax_cpu()
    uint16_t load_acquire16(const uint16_t *p)
    void store_release16(uint16_t *p, uint16_t v)
    void full_barrier()
    uint32_t fetch_or32(uint32_t *p, uint32_t v)
    uint32_t fetch_and32(uint32_t *p, uint32_t v)
    uint32_t load32(const uint32_t *p)
    void store32(uint32_t *p, uint32_t v)
    uint64_t load64(const uint64_t *p)
    uint64_t fetch_or64(uint64_t *p, uint64_t v)
    uint64_t fetch_and64(uint64_t *p, uint64_t v)
    uint64_t *look_up(uint64_t *const *p)
    void publish(uint64_t **p, uint64_t *v)
    void store64(uint64_t *p, uint64_t v)
