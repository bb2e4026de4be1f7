/* A guest that answers like spore-agent and does nothing of what it is asked: the tests' and the
   benchmarks' stand-in for Linux on hosts whose /dev/kvm interprets ring 0. Hello, GrowRoot,
   PrepareSnapshot, Identity and SetClock succeed; a command writes the sandbox's host name and exits
   with 0. One whose name begins with "burn" never halts. Its memory and its vsock driver are real: its connection is carried through the snapshot,
   it is sealed from PrepareSnapshot to Identity, and between packets it is halted.

   The first thing that it does in a clone is to read a port: the exit that is B2 (bench/README.md).

   It trusts its host: what it does not understand it answers by resetting the connection. */

#define BUFFER_BYTES 4096
#include "virtio.h"

#include "agent_frames.h"

enum {
    kAgentPort = 1024, /* hypervisor/sandbox/guest.h */
    kConnectionsMax = 16,
    kHeadBytes = 64, /* of a frame: stream and kind are in them */
    kSleepControlPort = 0x600, /* hypervisor/boot/layout.h */
    kPowerOff = 5 << 2 | 1 << 5,
    kLapic = 0xFEE00000u,
    kBurn = 'b' | 'u' << 8 | 'r' << 16 | 'n' << 24,
};

/* virtio 1.2 §5.10.6 */
struct packet { u32 from, from_high, to, to_high, from_port, to_port, length; u16 type, op; u32 flags, room, taken; };
enum { kOpRequest = 1, kOpResponse, kOpReset, kOpShutdown, kOpData, kOpCreditUpdate, kOpCreditRequest };
enum { kShutBoth = 3, kStream = 1, kRoom = 1 << 20 };

struct connection {
    u32 port;     /* the host's; 0: free */
    u32 received; /* bytes, for the credit */
    u32 skip;     /* what is left of a frame whose head has been seen */
    u32 have;     /* bytes of a head that came in pieces */
    u8 head[kHeadBytes];
};
static struct connection connections[kConnectionsMax];
static u32 guest_cid;
static u8 sealed;

/* The Identity's frame stays in the buffer in which it came; that is replaced by the spare one. */
static u8 spare_buffer[BUFFER_BYTES] __attribute__((aligned(4096)));
static u8* spare = spare_buffer;
static const u8* identity;
static u8 keeps_buffer;
static u8 burns;

static void copy(u8* to, const u8* from, u32 bytes) {
    u32 words = (bytes + 3) / 4; /* both have room for whole ones */
    __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(words)::"memory");
}

/* Has the host take all that was sent. */
static void flush(void) {
    struct queue* tx = vsock_queues[kVsockTx];
    put16(vsock_notify, kVsockTx);
    while (*(volatile u16*)&tx->used.index != tx->available.index) {
    }
}

/* One packet to the host, which is told of it later. */
static void send(u32 port, u32 received, u16 op, u32 flags, const u8* data, u32 length) {
    struct queue* tx = vsock_queues[kVsockTx];
    u16 next = tx->available.index;
    if ((u16)(next - *(volatile u16*)&tx->used.index) >= kQueueSize)
        flush();
    u32 slot = next % kQueueSize;
    u8* buffer = buffers[tx - queues][slot];
    *(struct packet*)buffer = (struct packet){
        guest_cid, 0, 2, 0, kAgentPort, port, length, kStream, op, flags, kRoom, received};
    copy(buffer + sizeof(struct packet), data, length);
    tx->descriptors[slot].address = (u32)buffer;
    tx->descriptors[slot].length = sizeof(struct packet) + length;
    tx->available.ring[slot] = (u16)slot;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    *(volatile u16*)&tx->available.index = (u16)(next + 1);
}

static void answer(const struct connection* to, u8* frame, u32 bytes, u32 stream_at, u32 stream) {
    *(u32*)(frame + stream_at) = stream;
    send(to->port, to->received, kOpData, 0, frame, bytes);
}
#define ANSWER(to, name, stream) answer(to, k##name, sizeof(k##name), k##name##Stream, stream)

/* FlatBuffers: where a table's field lies; 0 if it is left out. */
static const u8* field(const u8* table, u32 number) {
    const u8* fields = table - (int)get32((u32)table);
    u16 at = number < get16((u32)fields) ? get16((u32)fields + number) : 0;
    return at == 0 ? 0 : table + at;
}
static const u8* follow(const u8* offset) { return offset + get32((u32)offset); }

/* The host name of the last Identity, behind its length. */
static const u8* hostname(void) {
    const u8* table = follow(identity + 4);
    return follow(field(follow(field(table, kFieldBody)), kFieldHostname));
}

/* And a newline. */
static void write_hostname(const struct connection* to, u32 stream) {
    u32 length = 0;
    if (identity != 0) {
        const u8* name = hostname();
        length = get32((u32)name);
        if (length > kOutputBytes - 1)
            length = kOutputBytes - 1;
        copy(kOutput + kOutputLength + 4, name + 4, length);
    }
    kOutput[kOutputLength + 4 + length] = '\n';
    *(u32*)(kOutput + kOutputLength) = length + 1;
    ANSWER(to, Output, stream);
}

static void execute(const struct connection* to, u32 stream) {
    if (sealed) {
        ANSWER(to, Sealed, stream);
        return;
    }
    ANSWER(to, Started, stream);
    write_hostname(to, stream);
    ANSWER(to, Exited, stream);
}

/* `whole`: all of the frame is there, not its head alone. False: it makes no sense. */
static u8 serve(struct connection* from, const u8* frame, u8 whole) {
    const u8* table = follow(frame + 4);
    const u8* stream_at = 0;
    const u8* kind = 0;
    if (table + 16 <= frame + kHeadBytes) {
        const u8* fields = table - (int)get32((u32)table);
        if (fields >= frame && fields + 10 <= frame + kHeadBytes) {
            stream_at = field(table, kFieldStream);
            kind = field(table, kFieldBodyType);
        }
    }
    if (kind == 0 || stream_at == 0)
        return 0;
    u32 stream = get32((u32)stream_at);
    switch (*kind) {
        case kHelloRequest:
            ANSWER(from, HelloReply, stream);
            break;
        case kPingRequest:
            ANSWER(from, Pong, stream);
            break;
        case kExecRequest:
            execute(from, stream);
            break;
        case kIdentityRequest:
            sealed = 0;
            identity = whole ? frame : 0;
            keeps_buffer = whole;
            burns = whole && get32((u32)(hostname() + 4)) == kBurn;
            ANSWER(from, Done, stream);
            break;
        case kPrepareSnapshotRequest:
            sealed = 1;
            ANSWER(from, Done, stream);
            break;
        case kPowerOffRequest:
            ANSWER(from, Done, stream);
            flush();
            out(kSleepControlPort, kPowerOff);
            break;
        case kGrowRootRequest:
        case kSetClockRequest:
            ANSWER(from, Done, stream);
            break;
        case kStdinDataRequest: /* to a command that has ended */
        case kCreditRequest:
        case kSignalRequest:
            break;
        default:
            ANSWER(from, Unknown, stream);
    }
    return 1;
}

/* Bytes of the stream, whose frames may come in pieces. False: they make no sense. */
static u8 take(struct connection* from, const u8* bytes, u32 length) {
    while (length > 0) {
        u32 count;
        if (from->skip > 0) {
            count = from->skip < length ? from->skip : length;
            from->skip -= count;
        } else if (from->have == 0 && length >= 4 && get32((u32)bytes) <= length - 4) {
            count = 4 + get32((u32)bytes);
            if (!serve(from, bytes, 1))
                return 0;
        } else {
            count = 1;
            from->head[from->have++] = *bytes;
            u32 all = from->have < 4 ? kHeadBytes : 4 + get32((u32)from->head);
            if (from->have == kHeadBytes || from->have == all) {
                from->skip = all - from->have;
                from->have = 0;
                if (!serve(from, from->head, 0))
                    return 0;
            }
        }
        bytes += count;
        length -= count;
    }
    return 1;
}

static struct connection* find(u32 port) {
    for (struct connection* each = connections; each < connections + kConnectionsMax; each++)
        if (each->port == port)
            return each;
    return 0;
}

static void open(const struct packet* request) {
    struct connection* fresh = find(0);
    if (fresh == 0 || request->to_port != kAgentPort) {
        send(request->from_port, 0, kOpReset, 0, 0, 0);
        return;
    }
    fresh->port = request->from_port;
    fresh->received = fresh->skip = fresh->have = 0;
    send(fresh->port, 0, kOpResponse, 0, 0, 0);
}

static void handle(const struct packet* packet) {
    struct connection* from = find(packet->from_port);
    guest_cid = packet->to;
    if (from == 0) {
        if (packet->op == kOpRequest)
            open(packet);
        else if (packet->op != kOpReset)
            send(packet->from_port, 0, kOpReset, 0, 0, 0);
        return;
    }
    switch (packet->op) {
        case kOpData:
            from->received += packet->length;
            if (take(from, (const u8*)(packet + 1), packet->length))
                return;
            send(from->port, from->received, kOpReset, 0, 0, 0);
            from->port = 0;
            return;
        case kOpShutdown: /* all that it asked for has been answered */
            if ((packet->flags & kShutBoth) == kShutBoth) {
                send(from->port, from->received, kOpReset, 0, 0, 0);
                from->port = 0;
            } else {
                send(from->port, from->received, kOpShutdown, kShutBoth, 0, 0);
            }
            return;
        case kOpReset:
            from->port = 0;
            return;
        case kOpCreditRequest:
            send(from->port, from->received, kOpCreditUpdate, 0, 0, 0);
            return;
    }
}

/* All packets that have come. */
static void serve_packets(void) {
    static u16 seen;
    struct queue* rx = vsock_queues[kVsockRx];
    struct queue* tx = vsock_queues[kVsockTx];
    u16 sent = tx->available.index;
    u8 refilled = 0;
    while (seen != *(volatile u16*)&rx->used.index) {
        u32 id = rx->used.ring[seen % kQueueSize].id;
        handle((const struct packet*)rx->descriptors[id].address);
        if (keeps_buffer) {
            u8* kept = (u8*)rx->descriptors[id].address;
            rx->descriptors[id].address = (u32)spare;
            spare = kept;
            keeps_buffer = 0;
        }
        rx->available.ring[rx->available.index % kQueueSize] = (u16)id;
        __atomic_thread_fence(__ATOMIC_RELEASE);
        *(volatile u16*)&rx->available.index = (u16)(rx->available.index + 1);
        seen++;
        refilled = 1;
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* All queues share a doorbell (multiplier 0); virtio 1.2 §2.7.10: the device says if it wants it. */
    u8 wanted = (sent != tx->available.index && !(*(volatile u16*)&tx->used.flags & 1)) ||
                (refilled && !(*(volatile u16*)&rx->used.flags & 1));
    if (wanted)
        put16(vsock_notify, kVsockTx);
}

/* Until an interrupt has come. Its handler returns in the place of whoever waits, with interrupts
   off; there is no iret, which some hosts cannot interpret. */
void wait_for_interrupt(void);
extern u8 on_interrupt[];
__asm__(
    "wait_for_interrupt:\n"
    "    sti\n"
    "    hlt\n"
    "    cli\n"
    "    ret\n"
    "on_interrupt:\n"
    "    add $12, %esp\n" /* EIP, CS, EFLAGS */
    "    movl $0, 0xFEE000B0\n" /* end of interrupt */
    "    ret\n");

static void set_up_interrupts(void) {
    static u32 gates[256][2];
    static struct { u16 pad, limit; u32 base; } table = {0, sizeof(gates) - 1, 0};
    for (u32 vector = 0; vector < 256; vector++) {
        gates[vector][0] = 0x8 << 16 | ((u32)on_interrupt & 0xFFFF); /* the boot's flat code segment */
        gates[vector][1] = ((u32)on_interrupt & 0xFFFF0000) | 0x8E00;
    }
    table.base = (u32)gates;
    __asm__ volatile("lidt %0" ::"m"(table.limit));
    put32(kLapic + 0xF0, 0x1FF); /* enabled, spurious vector 255 */
}

void guest_main(void) {
    set_up_interrupts();
    u32 found = set_up_devices();
    out(kSerial, (u8)('0' + found));
    out(kSerial, '\n');
    vsock_queues[kVsockTx]->available.flags = 1; /* no interrupts of it */
    for (;;) {
        serve_packets();
        if (burns)
            continue;
        wait_for_interrupt();
        if (sealed)
            in(kSerial + 5);
    }
}
