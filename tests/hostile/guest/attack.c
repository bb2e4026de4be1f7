/* A guest that attacks one device of its machine, and ports, holes and configuration space beside
   it, at random: "device=N seed=S ops=N" on its command line; device=0 is the machine alone: these
   and its serial port. It works at CPL 3 (entry.S), where hosts that interpret ring 0 run it at
   full speed too.

   Of what it does in memory one operation in 4, 64 or 1024 is wrong, as it decides with each reset,
   so that requests are under way when the wrong ones come. A device that asks for a reset gets it
   soon. It never ends its own machine on the way: it only reads the ports that do, leaves the LAPIC
   alone, asks only for MSIs that wait in the LAPIC, and has devices write into no memory of its own
   but data. When it is done it powers off.

   So that no device can write elsewhere, whatever it reads at whatever moment: of four descriptors,
   in queues and in tables, the last is for tables (its address is never data, its flags have
   kIndirect) and the others for data (never a table's address nor kIndirect). A half of the old one
   and a half of the new are then one of the same kind. Tables are read where only this program
   writes: in kTables, and, beginning at any byte, in kGarbage, where no byte is 0, so that whatever
   eight are taken for an address lie outside memory. */

#include "machine.h"

/* An address for a descriptor: mostly in the data, else at an edge, or outside memory. */
static u64 any_address(void) {
    static const u64 edges[] = {
        kRamEnd - 1, kRamEnd, kRamEnd - 4096, kHole, 0xFFFFFFFF, 1ull << 32,    1ull << 46,
        1ull << 63,  ~0ull,   ~0ull - 4095,   kEcam, kLapic,     kArenaEnd - 1,
    };
    switch (next() >> 60) {
        case 0:
            return edges[below(sizeof(edges) / sizeof(*edges))];
        case 1:
            return next() | kRamEnd;
        default:
            return kData + below(kArenaEnd - kData);
    }
}
/* The same for a table; no table ends within kRamEnd - 1. */
static u64 any_table(void) {
    static const u64 edges[] = {
        kGarbage - 16, kRamEnd - 1, kRamEnd,    kHole, 0xFFFFFFFF, 1ull << 32,
        1ull << 63,    ~0ull,       ~0ull - 15, kEcam, kLapic,
    };
    switch (next() >> 60) {
        case 0:
            return edges[below(sizeof(edges) / sizeof(*edges))];
        case 1:
            return next() | kRamEnd;
        case 2:
        case 3:
            return kGarbage + below(1 << 20);
        default:
            return kTables + below(kTablesBytes / 16) * 16;
    }
}
static u64 garbage(void) {
    return next() | 0x0101010101010101ull;
}
static u32 any_length(void) {
    switch (next() >> 61) {
        case 0:
            return (u32)next();
        case 1:
            return 0xFFFFFFFF - (u32)below(8);
        case 2:
            return (u32)below(4);
        default:
            return (u32)below(8192);
    }
}
static u16 any_index(void) {
    return next() >> 62 ? (u16)below(kQueueSize) : (u16)next();
}

/* --- What is right. */

static void describe(struct queue* queue, u16 at, u64 address, u32 length, u16 flags) {
    struct descriptor* descriptor = &queue->descriptors[at];
    descriptor->address = address;
    descriptor->length = length;
    descriptor->flags = flags;
    descriptor->next = (u16)(at + 1) % kQueueSize;
}
/* A request as a driver makes it, whose contents may be anything: of a block device's header the
   type is mostly one that there is, of a vsock packet's the addresses. */
static void right_request(struct device* device, u16 number) {
    struct queue* queue = &queues[number];
    static const u8 types[] = {0, 1, 0, 1, 4, 8, 11, 13}; /* of a block request (§5.2.6) */
    u16 head = (u16)below(kQueueSize / 4) * 4;
    u64 header = kData + below(4096) * 64, data = kData + (1 << 20) + below(1024) * 4096;
    u32* words = (u32*)header;
    words[0] = next() >> 60 ? types[below(8)] : (u32)next();
    words[1] = 0;
    *(u64*)(words + 2) = next() >> 60 ? below(4096) : next();
    if (device->kind == kBlock) {
        u16 direction = words[0] == 1 || words[0] > 10 ? 0 : kDeviceWrites;
        describe(queue, head, header, 16, kNext);
        describe(queue, head + 1, data, (u32)below(17) * 512, kNext | direction);
        describe(queue, head + 2, kArenaEnd - 4096 + below(4096), 1, kDeviceWrites);
    } else if (device->kind == kVsock && number == 1) {
        u64* cids = (u64*)header;
        cids[0] = next() >> 59 ? 3 : next();
        cids[1] = 2;
        words[4] = 1024 + (u32)below(4);                              /* from port */
        words[5] = next() >> 63 ? 0x40000000 + (u32)below(64) : 9000; /* to port */
        words[6] = (u32)(next() >> 61 ? below(5000) : next());        /* length */
        words[7] = 1 | (u32)below(9) << 16;                           /* type, operation */
        words[8] = (u32)below(4);
        words[9] = (u32)(next() >> 62 ? 1 << 18 : next()); /* credit, and lies about it */
        words[10] = (u32)(next() >> 62 ? 0 : next());
        describe(queue, head, header, 44, kNext);
        describe(queue, head + 1, data, (u32)below(5000), 0);
    } else if (device->kind == kNet && number == 1) {
        describe(queue, head, header, 12, kNext);
        describe(queue, head + 1, data, (u32)below(70000), 0);
    } else {
        describe(queue, head, data, (u32)below(5000), kDeviceWrites);
    }
    publish(queue, head);
}

/* --- What is wrong, in memory. */

static void wrong_descriptor(struct descriptor* descriptor) {
    int for_table = (u64)descriptor / sizeof(*descriptor) % 4 == 3;
    u16 flags = (u16)(next() >> 60 ? next() >> 61 : next());
    descriptor->address = for_table ? any_table() : any_address();
    descriptor->length = any_length();
    descriptor->flags = for_table ? flags | kIndirect : flags & ~kIndirect;
    descriptor->next = any_index();
}
static struct descriptor* last_table = (struct descriptor*)(32 << 20); /* kTables */
static void indirect_table(struct queue* queue) {
    struct descriptor* table = last_table =
        (struct descriptor*)(kTables + below(kTablesBytes / 4096) * 4096);
    u32 entries = (u32)below(64);
    for (u32 index = 0; index < entries; index++) {
        wrong_descriptor(&table[index]);
        table[index].next = (u16)(next() >> 61 ? index + 1 : next());
    }
    u16 head = (u16)below(kQueueSize / 4) * 4 + 3;
    describe(queue, head, (u64)table, entries * 16 + (next() >> 60 == 0),
             kIndirect | (next() >> 61 == 0));
    publish(queue, head);
}
static void wrong_in_memory(struct queue* queue) {
    struct descriptor* descriptor = &queue->descriptors[below(kQueueSize)];
    switch (below(14)) {
        case 0:
            queue->available.ring[below(kQueueSize)] = any_index();
            break;
        case 1:
            queue->available.index += (u16)next();
            break;
        case 2:
            queue->used.index = (u16)next();
            break;
        case 3:
            publish(queue, any_index());
            break;
        case 4:
        case 5:
        case 6:
            indirect_table(queue);
            break;
        case 7:
            queue->used.ring[below(kQueueSize)].id = (u32)next();
            break;
        case 8: /* maybe while it is read */
            wrong_descriptor(&last_table[below(64)]);
            break;
        case 9:
            *(u64*)(kGarbage + below(kData - kGarbage - 8)) = garbage();
            break;
        default:
            wrong_descriptor(descriptor);
            publish(queue, (u16)(descriptor - queue->descriptors));
    }
}
static void in_memory(struct device* device) {
    u16 number = (u16)below(device->queues);
    struct queue* queue = &queues[number];
    if (below(1u << device->care) == 0) {
        wrong_in_memory(queue);
        return;
    }
    switch (below(16)) {
        case 0:
            queue->available.flags = (u16)next() & 1;
            break;
        case 1:
            queue->available.event = (u16)next();
            break;
        case 2:
        case 3:
        case 4:
            *(u64*)(kData + below(kArenaEnd - kData - 8)) = next();
            break;
        default:
            right_request(device, number);
    }
}

/* --- What is wrong, in registers: each of these is an exit. */

static void access(u64 at, int write, u64 value) {
    switch (next() >> 62) {
        case 0:
            write ? put8(at, (u8)value) : (void)get8(at);
            break;
        case 1:
            write ? put16(at, (u16)value) : (void)get16(at);
            break;
        case 2:
            write ? put32(at, (u32)value) : (void)get32(at);
            break;
        default:
            write ? put64(at, value) : (void)get64(at);
    }
}
static void any_port(void) {
    u16 port = next() >> 62 ? (u16)next() : (u16)(0x3F8 + below(8));
    u32 value = (u32)next();
    switch (may_end_machine(port) ? 3 + below(3) : below(8)) {
        case 0:
            __asm__ volatile("outb %b0, %1" ::"a"(value), "d"(port));
            break;
        case 1:
            __asm__ volatile("outw %w0, %1" ::"a"(value), "d"(port));
            break;
        case 2:
            __asm__ volatile("outl %0, %1" ::"a"(value), "d"(port));
            break;
        case 3:
            __asm__ volatile("inb %1, %b0" : "=a"(value) : "d"(port));
            break;
        case 4:
            __asm__ volatile("inw %1, %w0" : "=a"(value) : "d"(port));
            break;
        case 5:
            __asm__ volatile("inl %1, %0" : "=a"(value) : "d"(port));
            break;
        default: {
            u64 from = kData, count = below(64);
            __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory");
        }
    }
}
/* A page of bytes, words or double words at once, mostly through the serial port's data; the
   operations that it was. */
static u64 flood(void) {
    u16 port = next() >> 62 ? kSerial : (u16)(kSerial + below(8));
    u64 at = kData, elements = 1 + below(1024), count = elements;
    switch (below(8)) {
        case 0:
            __asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(port) : "memory");
            break;
        case 1:
            __asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(port) : "memory");
            break;
        case 2:
            __asm__ volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(port) : "memory");
            break;
        case 3:
            __asm__ volatile("rep outsl" : "+S"(at), "+c"(count) : "d"(port) : "memory");
            break;
        default:
            __asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(port) : "memory");
    }
    return elements;
}
/* An MSI that any device may send: its delivery mode is fixed, so that it waits in the LAPIC. */
static void any_vector(struct device* device) {
    u64 entry = device->bar + kMsixTable + below(kVectorsMax) * 16 + below(4) * 4;
    u32 value = (u32)next();
    if ((entry & 12) == 8)
        value &= ~0x700u;
    put32(entry, value);
}
static void any_hole(const struct device* device) {
    u64 at = kHole + below((1ull << 32) - kHole - 8), vectors = device->bar + kMsixTable;
    int lapic = at >= kLapic - 8 && at < kLapic + 4096;
    int vector = at >= vectors - 8 && at < vectors + kPartBytes;
    access(at, !lapic && !vector && (next() & 1), next());
}
/* Configuration space of any device, the BARs too, which then lie anywhere; begin() puts ours back.
 */
static void any_configuration(struct device* device) {
    u64 slot = next() >> 62 ? device->config : kEcam + (below(32) << 15);
    u64 at = slot + (next() >> 62 ? below(256) : below(4096));
    /* MSI-X's own registers stay on: masked vectors would hide the rest. */
    access(at, next() & 1, next());
}
/* A device's registers over memory, where memory is to stay what it is, and back. */
static void registers_over_memory(const struct device* device) {
    u64 at = (next() >> 63 ? device->config : kEcam + (below(32) << 15)) + 0x10;
    u32 before = get32(at);
    u64 place = kData + below((kArenaEnd - kData) / kBarBytes) * kBarBytes;
    put32(at, (u32)place);
    put32(at + 4, 0);
    for (u64 count = below(8); count > 0; count--)
        access(place + below(kBarBytes - 8), next() & 1, next());
    put16(place + kNotify, (u16)below(device->queues + 1));
    put32(at, before);
}
/* Of MSI-X's table any_vector() writes: what is written here might be an NMI. */
static void any_register(const struct device* device) {
    u64 at = below(kBarBytes - 8);
    int vector = at >= kMsixTable - 8 && at < kMsixTable + kPartBytes;
    access(device->bar + at, !vector && next() >> 62 == 0, next());
}
static void in_registers(struct device* device) {
    switch (below(32)) {
        case 0:
            access(device->bar + below(0x38), next() & 1, next());
            break;
        case 1:
            access(device->bar + kDeviceConfig + below(64), next() & 1, next());
            break;
        case 2:
            any_vector(device);
            break;
        case 3:
            any_register(device);
            break;
        case 4:
            any_configuration(device);
            break;
        case 5:
        case 6:
            any_hole(device);
            break;
        case 7:
        case 8:
        case 9:
            any_port();
            break;
        case 10:
            put8(device->bar + kStatus, (u8)next());
            break;
        case 11:
            put32(device->bar + kDriverFeature, (u32)next());
            break;
        case 12:
            (void)get8(device->bar + kIsr);
            break;
        case 13:
            registers_over_memory(device);
            break;
        default:
            put16(device->bar + kNotify, (u16)below(device->queues + 1));
    }
}

/* --- A device as its driver begins with it (virtio 1.2 §3.1.1), but for the features that it
 * takes. */

static void begin(struct device* device) {
    device->care = (u16)(2 + 4 * below(3));
    put32(device->config + 0x10, (u32)device->bar);
    put32(device->config + 0x14, 0);
    put16(device->config + 4, 6); /* memory, bus master */
    put16(device->config + device->msix + 2, 0x8000);
    put8(device->bar + kStatus, 0);
    while (get8(device->bar + kStatus) != 0) { /* requests are drained first */
    }
    put8(device->bar + kStatus, 1 | 2);
    u32 mask = next() >> 63 ? ~0u : (u32)next();
    for (u32 half = 0; half < 2; half++) {
        put32(device->bar + kFeatureSelect, half);
        put32(device->bar + kDriverFeatureSelect, half);
        put32(device->bar + kDriverFeature, (get32(device->bar + kFeatures) & mask) | half);
    }
    put8(device->bar + kStatus, 1 | 2 | 8);
    for (u16 number = 0; number < device->queues; number++) {
        struct queue* queue = &queues[number];
        clear(queue, sizeof(*queue));
        put16(device->bar + kQueueSelect, number);
        put16(device->bar + kQueueSizeRegister, kQueueSize);
        put16(device->bar + kQueueVector, number + 1);
        for (u32 part = 0; part < 3; part++) {
            u64 at = part == 0   ? (u64)queue->descriptors
                     : part == 1 ? (u64)&queue->available
                                 : (u64)&queue->used;
            put32(device->bar + kQueueParts + part * 8, (u32)at);
            put32(device->bar + kQueueParts + part * 8 + 4, 0);
        }
        put16(device->bar + kQueueEnable, 1);
    }
    put8(device->bar + kStatus, 1 | 2 | 8 | 4);
}

/* virtio 1.2 §2.1: DEVICE_NEEDS_RESET; also a device that was switched off, or is elsewhere. */
static int needs_reset(const struct device* device) {
    return get8(device->bar + kStatus) != (1 | 2 | 4 | 8);
}

/* What there is beside devices. An element of a string instruction is an operation. */
static void attack_machine(struct device* device, u64 operations) {
    for (u64 count = 0; count < operations;) {
        u64 dice = below(128);
        count += dice < 16 ? flood() : 1;
        if (dice < 32)
            any_port();
        else if (dice < 80)
            any_hole(device);
        else if (dice < 112)
            any_configuration(device);
        else
            registers_over_memory(device);
    }
}

void attack(void) {
    struct device device;
    u64 operations = number_after("ops=");
    u16 kind = (u16)number_after("device=");
    random_state = number_after("seed=") * 2 + 1;
    if (!find(&device, kind ? kind : kRng))
        end("no such device\n");
    for (u64 at = kGarbage; at < kData; at += 8)
        *(u64*)at = garbage();
    say("begins\n");
    if (kind == 0) {
        attack_machine(&device, operations);
        end("done\n");
    }
    begin(&device);
    for (u64 count = 0; count < operations; count++) {
        if (count % kRound == 0 || (count % kLook == 0 && needs_reset(&device)))
            begin(&device);
        u64 dice = next() >> 58;
        if (dice == 0)
            in_registers(&device);
        else if (dice <= 2)
            put16(device.bar + kNotify, (u16)below(device.queues));
        else
            in_memory(&device);
    }
    end("done\n");
}
