/*
 * A driver of examples/kv in user space, as root of a guest: kv mmio ADDRESS REQUEST... or
 * kv pci DDDD:BB:DD.F REQUEST...  It sets one queue up in a page of its own (virtio 1.2, sections
 * 2.7, 4.1 and 4.2), sends each request, and prints each answer in a line: its first byte as a
 * number, and the rest.
 */
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, ENTRIES = 4, AVAIL = 0x100, USED = 0x200, REQUEST = 0x400, ANSWER = 0x800 };
enum { BEGUN = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
       AGREED = BEGUN | VIRTIO_CONFIG_S_FEATURES_OK,
       RUNNING = AGREED | VIRTIO_CONFIG_S_DRIVER_OK };

static void check(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

/* The guest physical address of a page of this process. */
static uint64_t physical(void *page)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    check(pread(fd, &entry, 8, (uintptr_t)page / PAGE * 8) == 8, "pagemap");
    close(fd);
    check(entry >> 63 && entry << 9, "pagemap: no page");
    return (entry & ((1ull << 55) - 1)) * PAGE;
}

static volatile uint8_t *map(const char *path, off_t at, size_t size)
{
    int fd = open(path, O_RDWR | O_SYNC);
    void *found = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
    check(found != MAP_FAILED, path);
    return found;
}

static volatile void *bell;
static int bell_is_wide;

static void start_mmio(uint64_t base, uint64_t page)
{
    volatile uint8_t *registers = map("/dev/mem", base & -PAGE, PAGE) + base % PAGE;
#define REGISTER(name) (*(volatile uint32_t *)(registers + VIRTIO_MMIO_##name))
    REGISTER(STATUS) = 0;
    REGISTER(STATUS) = BEGUN;
    REGISTER(DRIVER_FEATURES_SEL) = 1;
    REGISTER(DRIVER_FEATURES) = 1u << (VIRTIO_F_VERSION_1 - 32);
    REGISTER(STATUS) = AGREED;
    check(REGISTER(STATUS) == AGREED, "FEATURES_OK");
    REGISTER(QUEUE_SEL) = 0;
    REGISTER(QUEUE_NUM) = ENTRIES;
    REGISTER(QUEUE_DESC_LOW) = page, REGISTER(QUEUE_DESC_HIGH) = page >> 32;
    REGISTER(QUEUE_AVAIL_LOW) = page + AVAIL, REGISTER(QUEUE_AVAIL_HIGH) = page >> 32;
    REGISTER(QUEUE_USED_LOW) = page + USED, REGISTER(QUEUE_USED_HIGH) = page >> 32;
    REGISTER(QUEUE_READY) = 1;
    REGISTER(STATUS) = RUNNING;
    bell = &REGISTER(QUEUE_NOTIFY), bell_is_wide = 1;
}

static volatile uint8_t *bar(const char *folder, const struct virtio_pci_cap *place)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/resource%d", folder, place->bar);
    return map(path, place->offset & -PAGE, (place->offset % PAGE + place->length + PAGE - 1) & -PAGE)
        + place->offset % PAGE;
}

static void start_pci(const char *name, uint64_t page)
{
    struct virtio_pci_notify_cap here, notify = {0};
    struct virtio_pci_cap common = {0};
    uint8_t next = 0;
    uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    char folder[64], path[80];
    snprintf(folder, sizeof(folder), "/sys/bus/pci/devices/%s", name);
    snprintf(path, sizeof(path), "%s/config", folder);
    int fd = open(path, O_RDWR);
    check(pwrite(fd, &command, 2, PCI_COMMAND) == 2, path);
    check(pread(fd, &next, 1, PCI_CAPABILITY_LIST) == 1, path);
    for (; next; next = here.cap.cap_next) {
        check(pread(fd, &here, sizeof(here), next) == sizeof(here), path);
        if (here.cap.cap_vndr != PCI_CAP_ID_VNDR)
            continue;
        if (here.cap.cfg_type == VIRTIO_PCI_CAP_COMMON_CFG)
            common = here.cap;
        if (here.cap.cfg_type == VIRTIO_PCI_CAP_NOTIFY_CFG)
            notify = here;
    }
    close(fd);
    volatile struct virtio_pci_common_cfg *registers = (void *)bar(folder, &common);
    registers->device_status = 0;
    while (registers->device_status)
        ;
    registers->device_status = BEGUN;
    registers->guest_feature_select = 1;
    registers->guest_feature = 1u << (VIRTIO_F_VERSION_1 - 32);
    registers->device_status = AGREED;
    check(registers->device_status == AGREED, "FEATURES_OK");
    registers->queue_select = 0;
    registers->queue_size = ENTRIES;
    registers->queue_desc_lo = page, registers->queue_desc_hi = page >> 32;
    registers->queue_avail_lo = page + AVAIL, registers->queue_avail_hi = page >> 32;
    registers->queue_used_lo = page + USED, registers->queue_used_hi = page >> 32;
    registers->queue_enable = 1;
    registers->device_status = RUNNING;
    bell = bar(folder, &notify.cap) + registers->queue_notify_off * notify.notify_off_multiplier;
}

int main(int argc, char **argv)
{
    check(argc > 3, "kv mmio|pci PLACE REQUEST...");
    uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    check(page != MAP_FAILED, "mmap");
    memset(page, 0, PAGE);
    uint64_t at = physical(page);
    if (strcmp(argv[1], "mmio") == 0)
        start_mmio(strtoull(argv[2], NULL, 0), at);
    else
        start_pci(argv[2], at);
    struct vring_desc *table = (void *)page;
    struct vring_avail *offered = (void *)(page + AVAIL);
    volatile struct vring_used *used = (void *)(page + USED);
    for (int i = 3; i < argc; i++) {
        size_t size = strlen(argv[i]);
        check(size <= ANSWER - REQUEST, "the request is too long");
        memcpy(page + REQUEST, argv[i], size);
        table[0] = (struct vring_desc){at + REQUEST, size, VRING_DESC_F_NEXT, 1};
        table[1] = (struct vring_desc){at + ANSWER, PAGE - ANSWER, VRING_DESC_F_WRITE, 0};
        offered->ring[offered->idx % ENTRIES] = 0;
        __sync_synchronize();
        offered->idx++;
        __sync_synchronize();
        if (bell_is_wide)
            *(volatile uint32_t *)bell = 0;
        else
            *(volatile uint16_t *)bell = 0;
        while (used->idx != offered->idx)
            ;
        __sync_synchronize();
        int count = used->ring[(used->idx - 1) % ENTRIES].len;
        printf("%d%.*s\n", page[ANSWER], count - 1, page + ANSWER + 1);
    }
    return 0;
}
