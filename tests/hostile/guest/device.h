#pragma once

/* What an attacking guest knows of virtio devices, the freestanding one and the Linux program:
   devices/virtio/pci_layout.h, virtio 1.2. */

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
