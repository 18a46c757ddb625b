/* The bare loop that our native one is measured against: KVM_RUN, look at the exit, again.
 * Usage: exits FILE COUNT - FILE is a raw payload for 0x1000 in real mode. Prints ns an exit. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
    long count = argc == 3 ? atol(argv[2]) : 0;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    char *ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int payload = open(argv[1], O_RDONLY);
    if (count <= 0 || vm < 0 || read(payload, ram + 0x1000, 4096) <= 0)
        return 1;
    uint64_t identity = 0xfef0c000;
    ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    ioctl(vm, KVM_SET_TSS_ADDR, 0xfef0d000ul);
    if (ioctl(vm, KVM_CREATE_IRQCHIP, 0))
        return 1;
    struct kvm_userspace_memory_region slot = {
        .memory_size = 1 << 20, .userspace_addr = (uint64_t)ram };
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    struct kvm_run *run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
                               PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
    ioctl(vcpu, KVM_SET_REGS, &regs);
    uint64_t start = 0;
    for (long done = -count / 10; done < count; done++) {
        if (done == 0)
            start = now();
        if (ioctl(vcpu, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO)
            return 1;
    }
    printf("%.1f\n", (double)(now() - start) / count);
    return 0;
}
