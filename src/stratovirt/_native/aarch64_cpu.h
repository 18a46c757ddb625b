/* What aarch64 needs instructions of its own for; setup.py names the file in CPU_HEADER. */

/* Tells the core that this thread waits for a word in memory (YIELD). */
static inline void relax_cpu(void) { __asm__ volatile("yield" ::: "memory"); }
