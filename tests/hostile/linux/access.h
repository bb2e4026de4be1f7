#pragma once

/* The devices that the attacking program has found, their registers and configuration space, each
   access counted; and how it says what it has done. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../guest/device.h"

enum { kDevicesMax = 8 };

struct target {
    u16 kind, queues, care;
    int config; /* its configuration space, a file of sysfs */
    u8 msix;
    u64 bar;
    volatile u8* registers;
};
static struct target targets[kDevicesMax];
static int target_count, kernel_log;
static u64 resets, kicks, accesses;
static time_t time_limit, begun;

/* One attack: so many operations, and no longer than the limit. */
static void begin_counting(void) {
    resets = kicks = accesses = 0;
    begun = time(NULL);
}
static int is_late(void) {
    return time(NULL) - begun >= time_limit;
}

static void fail(const char* what) {
    perror(what);
    exit(1);
}
static void say(const char* what, const char* name, u64 number) {
    char line[192];
    int size = snprintf(line, sizeof(line),
                        "<2>hostile: %s %s, %llu operations, %llu kicks, %llu other accesses, %llu "
                        "resets\n",
                        name, what, number, kicks, accesses, resets);
    (void)!write(kernel_log, line, size);
    printf("%s", line + 3);
    fflush(stdout);
}

/* --- Registers. */

static void put(struct target* target, u32 at, u32 bytes, u64 value) {
    volatile u8* place = target->registers + at;
    accesses++;
    switch (bytes) {
        case 1:
            *place = (u8)value;
            break;
        case 2:
            *(volatile u16*)place = (u16)value;
            break;
        case 4:
            *(volatile u32*)place = (u32)value;
            break;
        default:
            *(volatile u64*)place = value;
    }
}
static u64 get(struct target* target, u32 at, u32 bytes) {
    volatile u8* place = target->registers + at;
    accesses++;
    return bytes == 1   ? *place
           : bytes == 2 ? *(volatile u16*)place
           : bytes == 4 ? *(volatile u32*)place
                        : *(volatile u64*)place;
}
static void configure(struct target* target, u32 at, u32 bytes, u64 value) {
    accesses++;
    (void)!pwrite(target->config, &value, bytes, at);
}
static u32 configured(struct target* target, u32 at, u32 bytes) {
    u32 value = 0;
    accesses++;
    (void)!pread(target->config, &value, bytes, at);
    return value;
}
