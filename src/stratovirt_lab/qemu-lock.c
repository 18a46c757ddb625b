/*
 * What QEMU 7.2 lacks in its emulation of SVM.  The lab gives QEMU a copy of its TCG module in
 * which three imports have the names of the functions here.
 *
 * A nested guest that writes CR8 while an interrupt waits makes cpu_interrupt() run without QEMU's
 * big lock, and tcg_handle_interrupt() aborts on an assertion.  OVMF writes CR8 at the end of each
 * interrupt.  The first function is what the assertion calls, the second is the last thing there
 * that needs the lock.
 *
 * Now and then the global interrupt flag of a CPU is lost: the host of the nested guests goes on to
 * its idle loop with GIF clear, as after #VMEXIT, and halts there for good, interrupts waiting.
 * Where STGI's effect went is not known.  No host halts so by intent, so the third function, which
 * is called before a CPU sleeps, sets the flag and says so.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

bool qemu_mutex_iothread_locked(void);
void qemu_mutex_lock_iothread_impl(const char *file, int line);
void qemu_mutex_unlock_iothread(void);
bool qemu_cpu_is_self(void *cpu);
bool cpu_thread_is_idle(void *cpu);
void qemu_wait_io_event(void *cpu);

/* Offsets in X86CPU, and bits, of the one build of QEMU that is patched (qemu.py). */
enum { HFLAGS = 0x1460, HFLAGS2 = 0x1464 };
#define HF_GUEST (1u << 21)
#define HF2_GIF 1u

static __thread bool taken_here;

bool held_mutex_iothread_locked(void)
{
    if (!qemu_mutex_iothread_locked()) {
        qemu_mutex_lock_iothread_impl(__FILE__, __LINE__);
        taken_here = true;
    }
    return true;
}

bool held_cpu_is_self(void *cpu)
{
    bool is_self = qemu_cpu_is_self(cpu);
    if (taken_here) {
        taken_here = false;
        qemu_mutex_unlock_iothread();
    }
    return is_self;
}

void held_wait_io_event(void *cpu)
{
    uint32_t hflags = *(uint32_t *)((char *)cpu + HFLAGS);
    uint32_t *hflags2 = (uint32_t *)((char *)cpu + HFLAGS2);

    if (!(*hflags2 & HF2_GIF) && !(hflags & HF_GUEST) && cpu_thread_is_idle(cpu)) {
        *hflags2 |= HF2_GIF;
        fprintf(stderr, "lab: a CPU was to sleep without its global interrupt flag; it was set\n");
    }
    qemu_wait_io_event(cpu);
}
