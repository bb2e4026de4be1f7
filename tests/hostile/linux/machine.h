#pragma once

/* What the attacking program does to its machine beside its devices, where the kernel lets root do
   it, as Debian's does: every I/O port (ioperm()), and every hole in the address space that no
   driver claims (/dev/mem). */

#include <errno.h>
#include <sys/io.h>
#include <sys/mman.h>

#include "access.h"

enum { kPorts = 0x10000, kStringElements = 1024, kLookAtClockEvery = 16 };
enum { kWindow = 64 << 10, kPage = 4096, kAccessesOfWindow = 64, kRefusedMax = 1000 };

/* What is written to ports, and what is read from them. */
static u32 written[kStringElements], was_read[kStringElements];

static void single(u16 port, u32 width, int writes, u32 value) {
    if (width == 0)
        writes ? outb((u8)value, port) : (void)inb(port);
    else if (width == 1)
        writes ? outw((u16)value, port) : (void)inw(port);
    else
        writes ? outl(value, port) : (void)inl(port);
}
static void string(u16 port, u32 width, int writes, u64 elements) {
    void *to = was_read, *from = written;
    switch (2 * width + (u32)writes) {
        case 0:
            __asm__ volatile("rep insb" : "+D"(to), "+c"(elements) : "d"(port) : "memory");
            break;
        case 1:
            __asm__ volatile("rep outsb" : "+S"(from), "+c"(elements) : "d"(port) : "memory");
            break;
        case 2:
            __asm__ volatile("rep insw" : "+D"(to), "+c"(elements) : "d"(port) : "memory");
            break;
        case 3:
            __asm__ volatile("rep outsw" : "+S"(from), "+c"(elements) : "d"(port) : "memory");
            break;
        case 4:
            __asm__ volatile("rep insl" : "+D"(to), "+c"(elements) : "d"(port) : "memory");
            break;
        default:
            __asm__ volatile("rep outsl" : "+S"(from), "+c"(elements) : "d"(port) : "memory");
    }
}
/* Any port, every fourth time the serial one's. An element of a string instruction is an operation.
 */
static void attack_ports(u64 operations) {
    u64 count = 0;
    begin_counting();
    if (ioperm(0, kPorts, 1) != 0)
        fail("ioperm");
    for (u32 each = 0; each < kStringElements; each++)
        written[each] = (u32)next();
    for (; count < operations && (accesses % kLookAtClockEvery != 0 || !is_late()); accesses++) {
        u32 width = (u32)below(3);
        u16 port = next() >> 62 ? (u16)next() : (u16)(kSerial + below(8));
        /* The CPU refuses what reaches beyond the last. */
        if (port > kPorts - (1u << width))
            port = (u16)(kPorts - (1u << width));
        int writes = !may_end_machine(port) && next() >> 63;
        u64 elements = 1;
        if (next() >> 61 == 0) {
            elements += below(next() >> 60 ? 64 : kStringElements);
            string(port, width, writes, elements);
        } else {
            single(port, width, writes, (u32)next());
        }
        count += elements;
    }
    say("done", "ports", count);
}

/* How many bits an address has, by /proc/cpuinfo. */
static u32 address_bits(void) {
    FILE* file = fopen("/proc/cpuinfo", "r");
    char line[4096];
    unsigned bits = 0;
    while (file && bits == 0 && fgets(line, sizeof(line), file))
        (void)!sscanf(line, "address sizes : %u bits physical", &bits);
    if (bits <= 32)
        fail("/proc/cpuinfo");
    fclose(file);
    return bits;
}
/* Mostly below 4 GiB, where devices could be, every fourth time around those that are: BARs,
   configuration space, LAPIC; else right behind memory, anywhere behind it, or above 4 GiB, at any
   height. */
static u64 any_place(u64 ram_end, u32 bits) {
    static const u64 taken[] = {0xD0000000, 0xE0000000, 0xE0100000, 0xFEE00000};
    u64 low;
    switch (next() >> 61) {
        case 0:
            return ram_end + below(1 << 20);
        case 1:
            return ram_end + below(kHole - ram_end);
        case 2:
            low = 1ull << (32 + below(bits - 32));
            return low | (next() & (low - 1));
        case 3:
        case 4:
            return taken[below(4)] - (512 << 10) + below(1 << 20);
        default:
            return kHole + below((1ull << 32) - kHole);
    }
}
/* A window onto the hole there, of a page if what lies around is a driver's (EPERM) or the kernel
   has mapped it for itself (EAGAIN). MAP_FAILED: that page is, too. */
static u8* window(int memory, u64* place, u64* bytes) {
    static const u64 sizes[] = {kWindow, kPage};
    u8* mapped = MAP_FAILED;
    for (int each = 0; each < 2 && mapped == MAP_FAILED; each++) {
        *bytes = sizes[each];
        u64 at = *place & ~(*bytes - 1);
        mapped = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, (off_t)at);
        if (mapped == MAP_FAILED && errno != EPERM && errno != EAGAIN)
            fail("a window onto /dev/mem");
        if (mapped != MAP_FAILED)
            *place = at;
    }
    return mapped;
}
static void in_window(u8* at, int writes, u32 width, u64 value) {
    if (width == 0)
        writes ? (void)(*(volatile u8*)at = (u8)value) : (void)*(volatile u8*)at;
    else if (width == 1)
        writes ? (void)(*(volatile u16*)at = (u16)value) : (void)*(volatile u16*)at;
    else if (width == 2)
        writes ? (void)(*(volatile u32*)at = (u32)value) : (void)*(volatile u32*)at;
    else
        writes ? (void)(*(volatile u64*)at = value) : (void)*(volatile u64*)at;
}
/* Reads and writes at any byte, across pages too. What a driver claims the kernel refuses, by the
   page: that leaves its devices, its configuration space and its LAPIC to it. */
static void attack_holes(u64 ram_end, u64 operations) {
    u64 count = 0, windows = 0, refused = 0;
    u32 bits = address_bits();
    int memory = open("/dev/mem", O_RDWR | O_SYNC);
    begin_counting();
    if (memory < 0)
        fail("/dev/mem");
    while (count < operations && !is_late()) {
        u64 place = any_place(ram_end, bits), bytes;
        u8* mapped = window(memory, &place, &bytes);
        if (mapped == MAP_FAILED) {
            if (++refused == kRefusedMax && windows == 0)
                fail("every window onto /dev/mem");
            continue;
        }
        windows++;
        for (u32 access = 0; access < kAccessesOfWindow; access++, count++, accesses++)
            in_window(mapped + below(bytes - 7), next() >> 63 == 0, (u32)below(4), next());
        munmap(mapped, bytes);
    }
    close(memory);
    printf("hostile: holes in %llu places of %u bits, %llu are a driver's\n", windows, bits,
           refused);
    say("done", "holes", count);
}
