#pragma once

/* What the attacking guests have in common, the freestanding one and the Linux program: what they
   know of virtio devices (devices/virtio/pci_layout.h, virtio 1.2) and of the machine
   (hypervisor/boot/layout.h), chance, and how they offer. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { kBlock = 2, kNet = 1, kRng = 4, kVsock = 19 }; /* virtio 1.2 §5 */
enum { kNext = 1, kDeviceWrites = 2, kIndirect = 4 };
enum { kQueueSize = 64, kQueuesMax = 8, kVectorsMax = 16 };
/* After so many operations it begins anew; looks whether it must. */
enum { kRound = 8192, kLook = 1024 };
/* Registers in BAR 0 (virtio 1.2 §4.1.4.3). */
enum {
    kFeatureSelect = 0,
    kFeatures = 4,
    kDriverFeatureSelect = 8,
    kDriverFeature = 12,
    kNumQueues = 0x12,
    kStatus = 0x14,
    kQueueSelect = 0x16,
    kQueueSizeRegister = 0x18,
    kQueueVector = 0x1A,
    kQueueEnable = 0x1C,
    kQueueParts = 0x20,
    kIsr = 0x1000,
    kDeviceConfig = 0x2000,
    kNotify = 0x3000,
    kMsixTable = 0x4000,
    kPartBytes = 0x1000,
    kBarBytes = 0x8000,
};

enum { kSerial = 0x3F8, kSleepControl = 0x600, kReset = 0x602, kKeyboardController = 0x64 };
enum { kPowerOff = 5 << 2 | 1 << 5 };
static const u64 kHole = 0xC0000000;

/* What powers off or resets this machine, as it should, is one byte written to one of three ports,
   by whatever access begins there. Attackers only read these; what begins before them and reaches
   over them is written too. */
static int may_end_machine(u16 port) {
    return port == kSleepControl || port == kReset || port == kKeyboardController;
}

struct descriptor {
    u64 address;
    u32 length;
    u16 flags, next;
};
struct queue {
    struct descriptor descriptors[kQueueSize] __attribute__((aligned(4096)));
    struct {
        u16 flags, index, ring[kQueueSize], event;
    } available __attribute__((aligned(2048)));
    struct {
        u16 flags, index;
        struct {
            u32 id, length;
        } ring[kQueueSize];
        u16 event;
    } used __attribute__((aligned(1024)));
};

static u64 random_state; /* the seed, not 0, to begin with */

static u64 next(void) { /* xorshift64* */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Dull;
}
static u64 below(u64 bound) {
    return (next() >> 16) % bound;
}

/* Seldom more at a time than the queue holds, which breaks it at once. */
static void publish(struct queue* queue, u16 head) {
    u16 waiting = (u16)(queue->available.index - *(volatile u16*)&queue->used.index);
    if (waiting >= kQueueSize && next() >> 54)
        return;
    queue->available.ring[queue->available.index % kQueueSize] = head;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    *(volatile u16*)&queue->available.index = queue->available.index + 1;
}
