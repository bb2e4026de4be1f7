#pragma once

/* What the freestanding guests share: a driver that finds the virtio devices of a Spore machine and
   brings each to DRIVER_OK, in few instructions, since some hosts interpret ring 0 at about 1 us
   each. 32-bit code with a PVH entry; flat segments, no paging, interrupts off at first.

   Whoever includes it defines BUFFER_BYTES, the size of a buffer that a device fills. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

enum {
    kEcam = 0xE0000000u, /* hypervisor/boot/layout.h */
    kSerial = 0x3F8,
    kVirtioVendor = 0x1AF4,
    kVsockId = 0x1040 + 19, /* virtio 1.2 §5 */
    kSlotsMax = 8,
    kQueueSize = 16,
    kQueuesMax = 8,
    kMessageAddress = 0xFEE00000u,
    kVectorFirst = 0x40,
};
enum { kNext = 1, kDeviceWrites = 2 };
enum { kVsockRx = 0, kVsockTx = 1, kVsockEvents = 2 };

struct descriptor {
    u32 address, address_high, length;
    u16 flags, next;
};
struct available {
    u16 flags, index, ring[kQueueSize], event;
};
struct used {
    u16 flags, index;
    struct {
        u32 id, length;
    } ring[kQueueSize];
    u16 event;
};
struct queue {
    struct descriptor descriptors[kQueueSize] __attribute__((aligned(4096)));
    struct available available __attribute__((aligned(2048)));
    struct used used __attribute__((aligned(1024)));
};

static struct queue queues[kQueuesMax];
static u8 buffers[kQueuesMax][kQueueSize][BUFFER_BYTES] __attribute__((aligned(4096)));
static u32 queues_taken;
static struct queue* vsock_queues[3];
static u32 vsock_notify;

static u8 get8(u32 at) {
    return *(volatile u8*)at;
}
static u16 get16(u32 at) {
    return *(volatile u16*)at;
}
static u32 get32(u32 at) {
    return *(volatile u32*)at;
}
static void put8(u32 at, u8 value) {
    *(volatile u8*)at = value;
}
static void put16(u32 at, u16 value) {
    *(volatile u16*)at = value;
}
static void put32(u32 at, u32 value) {
    *(volatile u32*)at = value;
}
static void out(u16 port, u8 value) {
    __asm__ volatile("outb %0, %1" ::"a"(value), "d"(port));
}
static u8 in(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
    return value;
}

struct device {
    u32 config, common, notify;
    u16 vectors;
};

/* virtio 1.2 §4.1.4: capabilities say where the registers lie; all in BAR 0 here. */
static void find_registers(struct device* device) {
    u32 bar = get32(device->config + 0x10) & ~15u;
    for (u8 at = get8(device->config + 0x34); at != 0; at = get8(device->config + at + 1)) {
        u8 id = get8(device->config + at);
        if (id == 0x09 && get8(device->config + at + 3) == 1)
            device->common = bar + get32(device->config + at + 8);
        if (id == 0x09 && get8(device->config + at + 3) == 2)
            device->notify = bar + get32(device->config + at + 8);
        if (id != 0x11)
            continue;
        /* MSI-X: a vector for the configuration and one for each queue, as Linux does it. */
        u16 control = get16(device->config + at + 2);
        u32 table = bar + (get32(device->config + at + 4) & ~7u);
        device->vectors = (control & 0x7FF) + 1;
        for (u16 vector = 0; vector < device->vectors; vector++, table += 16) {
            put32(table, kMessageAddress);
            put32(table + 4, 0);
            put32(table + 8, kVectorFirst + vector);
            put32(table + 12, 0);
        }
        put16(device->config + at + 2, control | 0x8000);
    }
}

/* A queue in which the device finds buffers to fill, if `fill`. */
static struct queue* set_up_queue(const struct device* device, u16 number, u8 fill) {
    u32 at = queues_taken++;
    struct queue* queue = &queues[at];
    if (fill) {
        for (u16 index = 0; index < kQueueSize; index++) {
            queue->descriptors[index].address = (u32)buffers[at][index];
            queue->descriptors[index].length = BUFFER_BYTES;
            queue->descriptors[index].flags = kDeviceWrites;
            queue->available.ring[index] = index;
        }
        queue->available.index = kQueueSize;
    }
    put16(device->common + 0x16, number);
    put16(device->common + 0x18, kQueueSize);
    put16(device->common + 0x1A, number + 1);
    put32(device->common + 0x20, (u32)queue->descriptors);
    put32(device->common + 0x24, 0);
    put32(device->common + 0x28, (u32)&queue->available);
    put32(device->common + 0x2C, 0);
    put32(device->common + 0x30, (u32)&queue->used);
    put32(device->common + 0x34, 0);
    put16(device->common + 0x1C, 1);
    return queue;
}

/* virtio 1.2 §3.1.1. False: there is no virtio device in this slot. */
static u8 set_up_device(u32 slot) {
    struct device device = {kEcam + (slot << 15), 0, 0, 0};
    u32 id = get32(device.config);
    if ((id & 0xFFFF) != kVirtioVendor)
        return 0;
    u16 kind = (u16)(id >> 16);
    put16(device.config + 4, 0x6); /* memory, bus master */
    find_registers(&device);
    put8(device.common + 0x14, 0);
    put8(device.common + 0x14, 1 | 2);
    put32(device.common + 0x08, 1);
    put32(device.common + 0x0C, 1); /* VIRTIO_F_VERSION_1 and nothing else */
    put8(device.common + 0x14, 1 | 2 | 8);
    put16(device.common + 0x10, 0);
    u16 count = get16(device.common + 0x12);
    u8 receives = count > 1; /* network and vsock: queue 0; vsock: its events, queue 2 */
    for (u16 number = 0; number < count && queues_taken < kQueuesMax; number++) {
        struct queue* queue = set_up_queue(&device, number, receives && number != 1);
        if (kind == kVsockId && number <= kVsockEvents)
            vsock_queues[number] = queue;
    }
    if (kind == kVsockId)
        vsock_notify = device.notify;
    put8(device.common + 0x14, 1 | 2 | 8 | 4);
    if (receives)
        put16(device.notify, 0);
    return 1;
}

/* How many there are. */
static u32 set_up_devices(void) {
    u32 found = 0;
    for (u32 slot = 1; slot <= kSlotsMax; slot++)
        found += set_up_device(slot);
    return found;
}

__attribute__((noreturn, used)) void guest_main(void);

__asm__(
    ".section .text.entry, \"ax\"\n"
    ".global guest_entry\n"
    "guest_entry:\n"
    "    mov $guest_stack_end, %esp\n"
    "    jmp guest_main\n"
    ".section .bss.stack, \"aw\", @nobits\n"
    "    .balign 4096\n"
    "    .skip 4096\n"
    "guest_stack_end:\n"
    ".section .note.pvh, \"a\", @note\n"
    "    .balign 4\n"
    "    .long 4, 4, 18\n" /* name, description, XEN_ELFNOTE_PHYS32_ENTRY */
    "    .asciz \"Xen\"\n"
    "    .long guest_entry\n"
    ".text\n");
