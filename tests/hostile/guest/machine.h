#pragma once

/* What the attacking guest knows of its machine: hypervisor/boot/layout.h and
   devices/virtio/pci_layout.h, and how to find its device. */

#include "device.h"

static const u64 kCommandLine = 0x2000, kEcam = 0xE0000000, kLapic = 0xFEE00000;
/* Of 64 MiB the last 32 are the arena, and what lies below it, with the queues, is the program's
   own. In the arena, upwards: tables of descriptors, bytes to be taken for tables, data. Devices
   write into data alone. */
static const u64 kRamEnd = 64 << 20, kArena = 32 << 20, kArenaEnd = 64 << 20;
static const u64 kTables = 32 << 20, kTablesBytes = 1 << 20, kGarbage = 33 << 20, kData = 36 << 20;

static struct queue queues[kQueuesMax];

static u8 get8(u64 at) {
    return *(volatile u8*)at;
}
static u16 get16(u64 at) {
    return *(volatile u16*)at;
}
static u32 get32(u64 at) {
    return *(volatile u32*)at;
}
static u64 get64(u64 at) {
    return *(volatile u64*)at;
}
static void put8(u64 at, u8 value) {
    *(volatile u8*)at = value;
}
static void put16(u64 at, u16 value) {
    *(volatile u16*)at = value;
}
static void put32(u64 at, u32 value) {
    *(volatile u32*)at = value;
}
static void put64(u64 at, u64 value) {
    *(volatile u64*)at = value;
}
static void out(u16 port, u8 value) {
    __asm__ volatile("outb %0, %1" ::"a"(value), "d"(port));
}

static void clear(void* at, u64 bytes) {
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(0) : "memory");
}
static void say(const char* text) {
    for (; *text; text++)
        out(kSerial, (u8)*text);
}
__attribute__((noreturn)) static void end(const char* why) {
    out(kSerial + 3, 0); /* whatever it was set to */
    out(kSerial + 4, 0);
    say(why);
    out(kSleepControl, kPowerOff);
    for (;;) {
    }
}
/* The number behind `name` on the command line; 0 if there is none. */
static u64 number_after(const char* name) {
    for (const char* at = (const char*)kCommandLine; *at; at++) {
        u32 same = 0;
        while (name[same] && at[same] == name[same])
            same++;
        if (name[same])
            continue;
        u64 number = 0;
        for (at += same; *at >= '0' && *at <= '9'; at++)
            number = number * 10 + (u64)(*at - '0');
        return number;
    }
    return 0;
}

struct device {
    u64 config, bar;
    u16 kind, queues, msix;
    u16 care; /* of 2 to its power operations in memory one is wrong */
};
/* The first device of a kind; 0 if there is none. */
static int find(struct device* device, u16 kind) {
    for (u64 slot = 1; slot < 32; slot++) {
        u64 config = kEcam + (slot << 15);
        if (get32(config) != (0x1AF4u | (0x1040u + kind) << 16))
            continue;
        device->config = config;
        device->kind = kind;
        device->bar = get32(config + 0x10) & ~15u;
        for (u8 at = get8(config + 0x34); at != 0; at = get8(config + at + 1)) {
            if (get8(config + at) == 0x11)
                device->msix = at;
        }
        put16(config + 4, 6); /* memory, bus master */
        device->queues = get16(device->bar + kNumQueues);
        return device->queues <= kQueuesMax;
    }
    return 0;
}
