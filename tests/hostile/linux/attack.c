/* A program that attacks the devices of the Linux guest that it runs in, as root, past their
   drivers: "hostile_linux SEED SECONDS DEVICE=OPERATIONS...", each of rng, block, net, vsock,
   config, ports and holes, for no more than so many seconds each. It takes a device over, whoever
   has it: its registers by sysfs, its queues in memory of its own, whose place in the guest's
   memory /proc/self/pagemap tells. What it does at random is what guest/attack.c does. "config" is
   the PCI configuration and the registers of all, wherever they are then. "ports" and "holes"
   (machine.h) are what lies beside devices; the tuned kernel gives programs no way there, Debian's
   does.

   Most of what it does is in memory, hundreds of operations for each kick: an exit takes as long as
   thousands of them where the host's CPU is emulated.

   It does not end its own machine on the way, by the same rule as guest/attack.c: of four
   descriptors the last is for tables and the others for data, and whatever address stands beside
   whatever length lies in data, or outside memory. It says when it is done to whoever started it
   and, since its disk and vsock may not work then, in the kernel's log, which is on the console. */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>

#include "machine.h"

enum { kHuge = 2 << 20, kHalf = 1 << 20, kPatienceSeconds = 60 };
/* After so many operations a kick, another access to a register, a look whether the device has
   failed, and a reset in any case. */
enum { kKickEvery = 512, kAccessEvery = 4096, kLookEvery = 4096, kResetEvery = 65536 };

/* Pages of 2 MiB, as seen here and by devices. */
static u8 *queue_page, *table_page, *data_page;
static u64 queue_at, table_at, data_at, ram_end;
static struct descriptor* last_table;

/* --- What devices are pointed at. */

/* Of data: any of its first half, with a length of no more than the other, or an edge. */
static u64 any_address(void) {
    const u64 edges[] = {ram_end,    0xC0000000, 0xE0000000, 0xFEE00000,
                         1ull << 46, 1ull << 63, ~0ull,      ~0ull - 4095};
    switch (next() >> 60) {
        case 0:
            return edges[below(sizeof(edges) / sizeof(*edges))];
        case 1:
            return next() | 1ull << 40;
        default:
            return data_at + below(kHalf);
    }
}
/* Never so long that it ends in memory but not in data. */
static u32 any_length(void) {
    switch (next() >> 61) {
        case 0:
            return (u32)next() | 0x80000000;
        case 1:
            return 0xFFFFFFFF - (u32)below(8);
        case 2:
            return (u32)below(4);
        case 3:
            return (u32)below(kHalf);
        default:
            return (u32)below(8192);
    }
}
static void describe(struct descriptor* descriptor, u64 address, u32 length, u16 flags, u16 after) {
    volatile struct descriptor* slot = descriptor;
    slot->address = address;
    slot->length = length;
    slot->flags = flags;
    slot->next = after;
}
static void wrong_descriptor(struct descriptor* descriptor) {
    u16 flags = (u16)(next() >> 60 ? next() >> 61 : next());
    u16 after = next() >> 62 ? (u16)below(kQueueSize) : (u16)next();
    if ((u64)descriptor / sizeof(*descriptor) % 4 == 3)
        describe(descriptor, next() >> 60 ? table_at + below(kHalf / 16) * 16 : ram_end - 15,
                 any_length(), flags | kIndirect, after);
    else
        describe(descriptor, any_address(), any_length(), flags & ~kIndirect, after);
}
static struct queue* queue_of(u16 number) {
    return (struct queue*)queue_page + number;
}
static void indirect_table(struct queue* queue) {
    u64 offset = below(kHalf / 4096) * 4096, entries = below(64);
    last_table = (struct descriptor*)(table_page + offset);
    for (u64 index = 0; index < entries; index++)
        wrong_descriptor(&last_table[index]);
    u16 head = (u16)below(kQueueSize / 4) * 4 + 3;
    describe(&queue->descriptors[head], table_at + offset, (u32)entries * 16 + (next() >> 60 == 0),
             kIndirect | (next() >> 61 == 0), 0);
    publish(queue, head);
}
static void right_request(struct target* target, u16 number) {
    static const u8 types[] = {0, 1, 0,  1,
                               4, 8, 11, 13}; /* of a block request (virtio 1.2 §5.2.6) */
    struct queue* queue = queue_of(number);
    u16 head = (u16)below(kQueueSize / 4) * 4;
    struct descriptor* slots = queue->descriptors + head;
    u64 header = below(4096) * 64, data = data_at + (512 << 10) + below(64) * 4096;
    u32* words = (u32*)(data_page + header);
    words[0] = next() >> 60 ? types[below(8)] : (u32)next();
    words[1] = 0;
    *(u64*)(words + 2) = next() >> 60 ? below(4096) : next();
    if (target->kind == kBlock) {
        u16 direction = words[0] == 1 || words[0] > 10 ? 0 : kDeviceWrites;
        describe(slots, data_at + header, 16, kNext, head + 1);
        describe(slots + 1, data, (u32)below(17) * 512, kNext | direction, head + 2);
        describe(slots + 2, data_at + below(4096), 1, kDeviceWrites, 0);
    } else if (target->kind == kVsock && number == 1) {
        u64* cids = (u64*)words;
        cids[0] = next() >> 59 ? 3 : next();
        cids[1] = 2;
        words[4] = 1024 + (u32)below(4);
        words[5] = next() >> 63 ? 0x40000000 + (u32)below(64) : 9000;
        words[6] = (u32)(next() >> 61 ? below(5000) : next());
        words[7] = 1 | (u32)below(9) << 16;
        words[8] = (u32)below(4);
        words[9] = (u32)(next() >> 62 ? 1 << 18 : next());
        words[10] = (u32)(next() >> 62 ? 0 : next());
        describe(slots, data_at + header, 44, kNext, head + 1);
        describe(slots + 1, data, (u32)below(5000), 0, 0);
    } else if (target->kind == kNet && number == 1) {
        describe(slots, data_at + header, 12, kNext, head + 1);
        describe(slots + 1, data, (u32)below(70000), 0, 0);
    } else {
        describe(slots, data, (u32)below(5000), kDeviceWrites, 0);
    }
    publish(queue, head);
}

/* --- What it does. */

static void in_memory(struct target* target) {
    u16 number = (u16)below(target->queues);
    struct queue* queue = queue_of(number);
    if (below(1u << target->care)) {
        if (below(8) == 0)
            *(volatile u64*)(data_page + below(kHuge - 8)) = next();
        else
            right_request(target, number);
        return;
    }
    struct descriptor* descriptor = &queue->descriptors[below(kQueueSize)];
    switch (below(12)) {
        case 0:
            queue->available.ring[below(kQueueSize)] = (u16)next();
            break;
        case 1:
            queue->available.index += (u16)next();
            break;
        case 2:
            queue->used.index = (u16)next();
            break;
        case 3:
            queue->available.flags = (u16)next() & 1;
            queue->available.event = (u16)next();
            break;
        case 4:
            wrong_descriptor(&last_table[below(64)]); /* maybe while it is read */
            break;
        case 5:
        case 6:
        case 7:
            indirect_table(queue);
            break;
        default:
            wrong_descriptor(descriptor);
            publish(queue, (u16)(descriptor - queue->descriptors));
    }
}
static void any_access(struct target* target, u32 at, int writes) {
    u32 bytes = 1u << below(4);
    at &= ~(bytes - 1); /* the kernel maps it; across a page's end is another's */
    if (writes)
        put(target, at, bytes, next());
    else
        (void)get(target, at, bytes);
}
/* One, or a storm of them. */
static void kick(struct target* target) {
    for (u32 count = next() >> 57 ? 1 : 64; count > 0; count--, kicks++)
        *(volatile u16*)(target->registers + kNotify) = (u16)below(target->queues + 1u);
}
static void in_registers(struct target* target) {
    u64 entry = kMsixTable + below(kVectorsMax) * 16;
    switch (below(16)) {
        case 0:
            any_access(target, (u32)below(0x38), next() & 1);
            break;
        case 1:
            any_access(target, kDeviceConfig + (u32)below(64), next() & 1);
            break;
        case 2: /* an MSI that is no vector of the kernel's own, delivered as any other */
            put(target, (u32)entry + 8, 4, (next() & ~0x7FFull) | (0x30 + below(0x50)));
            put(target, (u32)entry + (u32)below(2) * 4, 4, next());
            break;
        case 3: {
            u32 at = (u32)below(kBarBytes);
            any_access(target, at,
                       (at < kMsixTable - 8 || at >= kMsixTable + kPartBytes) && next() & 1);
            break;
        }
        case 4:
            put(target, kStatus, 1, next());
            break;
        case 5:
            put(target, kDriverFeature, 4, next());
            break;
        case 6:
            (void)get(target, kIsr, 1);
            break;
        default:
            any_access(target, (u32)below(0x38), next() & 1);
    }
}
/* As its driver begins (virtio 1.2 §3.1.1), but for the features that it takes. 0: it does not
 * reset. */
static int begin(struct target* target) {
    resets++;
    target->care = (u16)(4 + 4 * below(4));
    configure(target, 0x10, 4, target->bar);
    configure(target, 0x14, 4, target->bar >> 32);
    configure(target, 4, 2, 6); /* memory, bus master */
    configure(target, target->msix + 2, 2, 0x8000);
    put(target, kStatus, 1, 0);
    for (time_t begun = time(NULL); get(target, kStatus, 1) != 0;) {
        if (time(NULL) - begun > kPatienceSeconds)
            return 0;
    }
    put(target, kStatus, 1, 1 | 2);
    u32 mask = next() >> 63 ? ~0u : (u32)next();
    for (u32 half = 0; half < 2; half++) {
        put(target, kFeatureSelect, 4, half);
        put(target, kDriverFeatureSelect, 4, half);
        put(target, kDriverFeature, 4, (get(target, kFeatures, 4) & mask) | half);
    }
    put(target, kStatus, 1, 1 | 2 | 8);
    memset(queue_page, 0, sizeof(struct queue) * kQueuesMax);
    for (u16 number = 0; number < target->queues; number++) {
        u64 at = queue_at + sizeof(struct queue) * number;
        const u64 parts[] = {at, at + __builtin_offsetof(struct queue, available),
                             at + __builtin_offsetof(struct queue, used)};
        put(target, kQueueSelect, 2, number);
        put(target, kQueueSizeRegister, 2, kQueueSize);
        put(target, kQueueVector, 2, number + 1u);
        for (u32 part = 0; part < 3; part++)
            put(target, kQueueParts + part * 8, 8, parts[part]);
        put(target, kQueueEnable, 2, 1);
    }
    put(target, kStatus, 1, 1 | 2 | 4 | 8);
    return 1;
}
static void attack(struct target* target, const char* name, u64 operations) {
    u64 count = 0;
    begin_counting();
    for (; count < operations && (count % kLookEvery != 0 || !is_late()); count++) {
        if ((count % kResetEvery == 0 ||
             (count % kLookEvery == 0 && get(target, kStatus, 1) != (1 | 2 | 4 | 8))) &&
            !begin(target)) {
            say("does not reset", name, count);
            exit(1);
        }
        if (below(kAccessEvery) == 0)
            in_registers(target);
        else if (below(kKickEvery) == 0)
            kick(target);
        else
            in_memory(target);
    }
    put(target, kStatus, 1, 0);
    say("done", name, count);
}
/* Its registers over memory, where memory is to stay what it is, and back. */
static void registers_over_memory(struct target* target) {
    volatile u64* word = (volatile u64*)(data_page + below(kHuge / 8) * 8);
    u64 place = ((u64)word - (u64)data_page + data_at) & ~(u64)(kBarBytes - 1);
    u64 value = next();
    *word = value;
    configure(target, 0x10, 4, place);
    configure(target, 0x14, 4, place >> 32);
    *(volatile u16*)(data_page + (place - data_at) + kNotify) = 0;
    int same = *word == value || (u64)word % kBarBytes / 8 == kNotify / 8;
    configure(target, 0x10, 4, target->bar);
    configure(target, 0x14, 4, target->bar >> 32);
    if (!same) {
        say("over memory changes memory", "config", place);
        exit(1);
    }
}
/* The configuration of any device and, wherever its registers are then, these. */
static void attack_configuration(u64 operations) {
    u64 count = 0;
    begin_counting();
    for (; count < operations && (count % 64 != 0 || !is_late()); count++) {
        struct target* target = &targets[below(target_count)];
        u32 bytes = 1u << below(3), at = (u32)below(next() >> 62 ? 256 : 4096) & ~(bytes - 1);
        if (next() >> 59 == 0)
            registers_over_memory(target);
        else if (next() >> 62)
            configure(target, at, bytes, next());
        else if (next() >> 63)
            (void)configured(target, at, bytes);
        else
            in_registers(target);
    }
    say("done", "config", count);
}

/* --- What it finds. */

static void add_device(const char* directory) {
    char path[512];
    struct target* target = &targets[target_count];
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", directory);
    target->config = open(path, O_RDWR);
    if (target->config < 0)
        fail(path);
    u32 id = configured(target, 0, 4);
    if ((id & 0xFFFF) != 0x1AF4)
        return;
    target->kind = (u16)((id >> 16) - 0x1040);
    target->bar = (configured(target, 0x10, 4) & ~15u) | (u64)configured(target, 0x14, 4) << 32;
    for (u32 at = configured(target, 0x34, 1); at != 0; at = configured(target, at + 1, 1)) {
        if (configured(target, at, 1) == 0x11)
            target->msix = (u8)at;
    }
    configure(target, 4, 2, 6);
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", directory);
    int file = open(path, O_RDWR | O_SYNC);
    void* mapped =
        file < 0 ? MAP_FAILED : mmap(NULL, kBarBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        fail(path);
    target->registers = mapped;
    target->queues = (u16)get(target, kNumQueues, 2);
    if (target->queues > 0 && target->queues <= kQueuesMax)
        target_count++;
}
static u64 place_of(const void* page) {
    u64 entry = 0;
    int map = open("/proc/self/pagemap", O_RDONLY);
    if (map < 0 || pread(map, &entry, 8, (u64)page / 4096 * 8) != 8 ||
        (entry & ((1ull << 55) - 1)) == 0)
        fail("pagemap");
    close(map);
    return (entry & ((1ull << 55) - 1)) * 4096;
}
static u8* huge_page(u64* at) {
    u8* page = mmap(NULL, kHuge, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    if (page == MAP_FAILED)
        fail("a page of 2 MiB");
    memset(page, 0, kHuge);
    *at = place_of(page);
    return page;
}
static void find_memory_end(void) {
    FILE* file = fopen("/proc/iomem", "r");
    char line[256];
    while (file && fgets(line, sizeof(line), file)) {
        unsigned long long first, last;
        if (line[0] != ' ' && strstr(line, "System RAM") &&
            sscanf(line, "%llx-%llx", &first, &last) == 2)
            ram_end = last + 1;
    }
    if (ram_end == 0)
        fail("/proc/iomem");
}

static struct target* find(const char* name) {
    static const struct {
        const char* name;
        u16 kind;
    } kinds[] = {{"rng", kRng}, {"block", kBlock}, {"net", kNet}, {"vsock", kVsock}};
    for (u32 each = 0; each < 4; each++) {
        for (int index = 0; strcmp(name, kinds[each].name) == 0 && index < target_count; index++) {
            if (targets[index].kind == kinds[each].kind)
                return &targets[index];
        }
    }
    fprintf(stderr, "%s: there is no such device\n", name);
    exit(1);
}
/* "DEVICE=OPERATIONS" */
static void attack_as(char* word) {
    char* number = strchr(word, '=');
    if (!number) {
        fprintf(stderr, "%s: is not DEVICE=OPERATIONS\n", word);
        exit(64);
    }
    *number++ = 0;
    u64 operations = strtoull(number, NULL, 10);
    if (strcmp(word, "ports") == 0)
        attack_ports(operations);
    else if (strcmp(word, "holes") == 0)
        attack_holes(ram_end, operations);
    else if (strcmp(word, "config") == 0)
        attack_configuration(operations);
    else
        attack(find(word), word, operations);
}

static int is_beside_devices(const char* word) {
    return strncmp(word, "ports=", 6) == 0 || strncmp(word, "holes=", 6) == 0;
}
/* Whose registers Debian's kernel gives to nobody while a driver has them. */
static void find_devices(void) {
    queue_page = huge_page(&queue_at);
    table_page = huge_page(&table_at);
    data_page = huge_page(&data_at);
    last_table = (struct descriptor*)table_page;
    DIR* devices = opendir("/sys/bus/pci/devices");
    if (!devices)
        fail("/sys/bus/pci/devices");
    for (struct dirent* entry; (entry = readdir(devices)) && target_count < kDevicesMax;) {
        if (entry->d_name[0] != '.')
            add_device(entry->d_name);
    }
    if (mlockall(MCL_CURRENT) != 0) /* its disk will not answer */
        fail("mlockall");
}

int main(int argc, char** argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: hostile_linux SEED SECONDS DEVICE=OPERATIONS...\n");
        return 64;
    }
    random_state = strtoull(argv[1], NULL, 10) * 2 + 1;
    time_limit = (time_t)strtoull(argv[2], NULL, 10);
    kernel_log = open("/dev/kmsg", O_WRONLY);
    find_memory_end();
    int beside = 0;
    for (int word = 3; word < argc; word++)
        beside += is_beside_devices(argv[word]);
    if (beside < argc - 3)
        find_devices();
    for (int word = 3; word < argc; word++)
        attack_as(argv[word]);
    return 0;
}
