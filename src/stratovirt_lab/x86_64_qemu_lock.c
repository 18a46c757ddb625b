/*
 * What QEMU 7.2 lacks in its emulation of SVM.  The lab gives QEMU a copy of its TCG module in
 * which two imports have the names of the functions here.
 *
 * A nested guest that writes CR8 while an interrupt waits makes cpu_interrupt() run without QEMU's
 * big lock, and tcg_handle_interrupt() aborts on an assertion.  OVMF writes CR8 at the end of each
 * interrupt.  The first function is what the assertion calls, the second is the last thing there
 * that needs the lock.
 */
#include <stdbool.h>

bool qemu_mutex_iothread_locked(void);
void qemu_mutex_lock_iothread_impl(const char *file, int line);
void qemu_mutex_unlock_iothread(void);
bool qemu_cpu_is_self(void *cpu);

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
