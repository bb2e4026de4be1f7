/* The benchmarks' guest: it brings each device to DRIVER_OK (virtio.h) and then reads a port for
   ever, so that a clone exits right after its first instruction. A clone is told by a vsock event
   that its connections are gone (virtio 1.2 §5.10.6.6.2): it halts for good when it sees that, and
   costs the host no more time. Where no such device is found (Firecracker has its devices elsewhere)
   it writes to the serial port instead, which can be seen from outside. */

#define BUFFER_BYTES 256
#include "virtio.h"

enum { kBell = 7 }; /* in no log line: bench/firecracker.cc waits for it */

void guest_main(void) {
    u32 found = set_up_devices();
    if (found == 0) {
        for (;;)
            out(kSerial, kBell);
    }
    out(kSerial, (u8)('0' + found));
    out(kSerial, '\n');
    /* A snapshot falls nearly always between two reads. Where it falls between the last and the
       look at the events, there is one more read before the halt. */
    struct queue* events = vsock_queues[kVsockEvents];
    do {
        __asm__ volatile(".rept 16; inb %%dx, %%al; .endr" ::"d"(kSerial + 5) : "eax");
    } while (events == 0 || *(volatile u16*)&events->used.index == 0);
    in(kSerial + 5);
    for (;;)
        __asm__ volatile("hlt");
}
