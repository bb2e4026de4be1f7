#pragma once

// The limits of a machine, its devices, its snapshots and its jail: unit, reason, relation to the
// others. Those of the agent and its protocol are in agent_limits.h.

#include <cstddef>
#include <cstdint>

namespace spore::limits {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;

// vCPUs of one machine. The MADT and the APIC IDs are laid out for them without x2APIC.
inline constexpr uint32_t kVcpusMax = 16;

// Guest memory: a stock kernel with its initramfs does not start in less than the minimum; the
// maximum is what 46 physical address bits leave after the hole (the host's memory is the real
// one).
inline constexpr uint64_t kMemoryBytesMin = 32 * kMiB;
inline constexpr uint64_t kMemoryBytesMax = 32 * 1024 * kGiB;

// The kernel's command line with its terminating zero: COMMAND_LINE_SIZE of x86.
inline constexpr uint64_t kCommandLineBytesMax = 2048;

// Entries of one virtqueue. 256 keeps a queue's three rings within three pages, and one ring's
// worth of 128 KiB requests well above what io_uring keeps in flight.
inline constexpr uint16_t kQueueSizeMax = 256;
static_assert((kQueueSizeMax & (kQueueSizeMax - 1)) == 0, "virtio 1.2 §2.7: a power of 2");

// Descriptors of one chain, direct and indirect together: the driver may not make a chain longer
// than the queue (virtio 1.2 §2.7.5.3.1), so a longer one is a loop or an attack.
inline constexpr uint16_t kChainDescriptorsMax = kQueueSizeMax;

// Bytes described by one chain. virtio 1.2 §2.7.5 allows 2^32; no device here needs more than 16
// MiB in one request, and lengths then never overflow 32 bits.
inline constexpr uint64_t kChainBytesMax = 16 * kMiB;

// Devices on the PCI bus: slots 1..31 of bus 0 (slot 0 is the host bridge).
inline constexpr uint32_t kPciSlots = 32;

// Requests that one block device works on at a time; the rest wait in its queues. A full queue of
// the largest size, so one queue alone is never held back.
inline constexpr uint32_t kBlockRequestsInFlightMax = 256;
static_assert(kBlockRequestsInFlightMax >= kQueueSizeMax);
// Queues of one block device: one for each of 4 vCPUs; all of them share the loop thread.
inline constexpr uint16_t kBlockQueuesMax = 4;

// Read-only layers below a copy-on-write disk's top (the raw base image not counted): every cluster
// read asks each of them in turn.
inline constexpr size_t kDiskLayersMax = 8;
// A copy-on-write disk: its map then stays below 512 MiB of memory when every cluster is written.
inline constexpr uint64_t kLayeredDiskBytesMax = 16 * 1024 * kGiB;

// Entries of the ring. What is more at a time is submitted in two calls, and completions overflow
// into the kernel. No more than that, because the kernel counts the ring's memory, 12 KiB, against
// RLIMIT_MEMLOCK of the user: where all jailed VMs are one user's (not root, or SPORE_UIDS=none),
// 682 of them fit into the usual 8 MiB, where 512 entries would be 157.
inline constexpr uint32_t kRingEntries = 64;
inline constexpr uint32_t kRingCompletions = 256;
// A cgroup's path within its hierarchy, or why there is none, as it is handed to a VMM. Paths are
// as deep as systemd's users are; names are ours.
inline constexpr size_t kCgroupTextBytesMax = 256;
inline constexpr size_t kCgroupNameBytesMax = 32;
static_assert(kCgroupNameBytesMax < kCgroupTextBytesMax);

// Clones that a pool keeps waiting: each is a process, and some MiB when it is parked.
inline constexpr uint32_t kPoolSizeMax = 4096;

// Files registered with the ring: disks, taps, doorbells, and one for every vsock connection.
inline constexpr uint32_t kRingFiles = 2048;

// One Ethernet frame to or from a guest: with segmentation offloads a 64 KiB IP packet and its link
// header, VLAN tag included (virtio 1.2 §5.1.6.3.1 has buffers of 65562 bytes with the 12 of the
// header).
inline constexpr uint32_t kNetFrameBytesMax = 65550;
// Frames that one device has given to the host and that are not gone yet.
inline constexpr uint32_t kNetSendsMax = 64;

// Connections of one guest over vsock, in both directions together: each costs the VMM a socket, a
// slot among the ring's files and about 300 bytes; buffers are allocated only while data waits.
inline constexpr uint32_t kVsockConnectionsMax = 1024;
static_assert(kVsockConnectionsMax < kRingFiles);
// Credit that the host end gives the guest for one connection: what may wait in the VMM's memory
// for a host program that does not read.
inline constexpr uint32_t kVsockBufferBytes = 256 * kKiB;
// Payload of one packet to the guest, and of one turn of a connection among the others: what Linux
// puts into one packet itself, so that a turn is short and a system call still well used.
inline constexpr uint32_t kVsockTurnBytes = 64 * kKiB;
static_assert(kVsockTurnBytes <= kVsockBufferBytes);
// Host programs that have connected and not said yet where to. More wait in the listener's backlog.
inline constexpr uint32_t kVsockClientsMax = 64;
static_assert(kVsockConnectionsMax + kVsockClientsMax < kRingFiles);
// "CONNECT 4294967295\n" and some room for a carriage return.
inline constexpr uint32_t kVsockLineBytesMax = 32;
// How long such a program may take to say it, and a guest to answer: far above what either needs on
// a loaded host, and low enough that a client learns of a guest that hangs.
inline constexpr uint32_t kVsockLineLimitMs = 10'000;
inline constexpr uint32_t kVsockAnswerLimitMs = 30'000;
// Resets that wait for rx buffers, for packets that belong to no connection; while so many wait
// nothing is taken from the tx queue.
inline constexpr uint32_t kVsockResetsMax = 256;
// Connections that a snapshot says are to be reset when it is restored: every one that there may
// be, and the resets that waited already.
inline constexpr uint32_t kVsockEndedMax = kVsockConnectionsMax + kVsockResetsMax;

// Serialized state of a snapshot (without memory): 16 vCPUs at about 20 KiB and 31 devices.
inline constexpr uint64_t kSnapshotStateBytesMax = 4 * kMiB;

// A template's checksums: 8 bytes for each 2 MiB of the largest memory, disk and base there may be.
inline constexpr uint64_t kChecksumsBytesMax = 512 * kMiB;
static_assert(kChecksumsBytesMax >
              (kMemoryBytesMax + 2 * kLayeredDiskBytesMax) / (2 * kMiB) * sizeof(uint64_t));
// Files that a template's seal is about: its memory, and its disks' layers.
inline constexpr uint32_t kSealedFilesMax = 8;

// A working set: runs of pages, 16 bytes each, and a system call each in every restore; that of
// Debian's kernel has about 730. Pages of it that are written ahead are memory of every clone that
// waits, used or not.
inline constexpr uint32_t kWorkingSetRunsMax = 16'384;
inline constexpr uint64_t kWorkingSetBytesMax = kWorkingSetRunsMax * 16 + 4 * kKiB;
inline constexpr uint64_t kWorkingSetWrittenPagesMax = 8 * kMiB / 4096;
// A guest's page tables that are looked through for where it has mapped its working set: as many
// as map 4 GiB in pages of 4 KiB; a kernel's own are some dozens.
inline constexpr uint32_t kGuestTablesMax = 2048;

// Threads of one jailed VM (RLIMIT_NPROC): its vCPUs, and the ring's workers, of which the kernel
// makes four for each of the host's processors. Of a zygote, those of all its workers together.
inline constexpr uint64_t kVmmTasksMax = 512 + 2 * kVcpusMax;
inline constexpr uint64_t kZygoteTasksMax = 64 * kVmmTasksMax;

// sun_path of a UNIX socket, with its terminating zero (unix(7)).
inline constexpr size_t kUnixPathBytesMax = 108;

}  // namespace spore::limits
