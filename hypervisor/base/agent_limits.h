#pragma once

// The limits of the agent, of the frames between it and the host, and of what the host keeps for
// it: unit, reason, relation to the others.

#include <cstdint>

#include "hypervisor/base/limits.h"

namespace spore::limits {

// One frame between host and agent, and between spore and spore-vmm: above the largest chunk of
// streamed data (kFrameChunkBytes) and an environment of 128 KiB, below what would hurt to buffer.
inline constexpr uint32_t kFrameBytesMax = 4 * kMiB;
inline constexpr uint32_t kFrameChunkBytes = 64 * kKiB;
static_assert(kFrameChunkBytes * 2 < kFrameBytesMax);

// Entries or events in one frame, and tables in one frame: each is verified, and many may share one
// vector, so that a hostile frame costs at most this often what its bytes do.
inline constexpr uint32_t kFrameItemsMax = 256;
inline constexpr uint32_t kFrameTablesMax = 320;
static_assert(kFrameTablesMax > kFrameItemsMax + 8, "the frame, its body and what those hold");

// The agent's ports on the guest's vsock: for frames, and for connections to the guest's own ports.
inline constexpr uint32_t kAgentPort = 1024;
inline constexpr uint32_t kAgentForwardPort = 1025;
// The line that such a connection begins with: "UNIX ", a sun_path, and some room.
inline constexpr uint32_t kForwardLineBytesMax = 128;
// Such connections at once, each with up to kFrameChunkBytes held in each direction for a reader
// that is slow, and nothing for one that keeps up.
inline constexpr uint32_t kAgentForwardsMax = 256;
// TCP listeners that one PortList finds: each is held until it is told, in about 100 bytes.
inline constexpr uint32_t kListenersMax = 4096;
// A path in a request: PATH_MAX of Linux without its terminating zero.
inline constexpr uint32_t kPathBytesMax = 4095;
static_assert(kFrameItemsMax * 2 * kPathBytesMax < kFrameBytesMax, "entries and their targets");
// The name of a process or a session.
inline constexpr uint32_t kNameBytesMax = 63;
// A line of a log that WaitLog looks at; what is longer is cut.
inline constexpr uint32_t kLogLineBytesMax = 16 * kKiB;
// Connections to one agent, and commands that it runs at once over all of them: a command costs it
// up to three descriptors and kStdinCreditBytes.
inline constexpr uint32_t kAgentConnectionsMax = 256;
inline constexpr uint32_t kAgentCommandsMax = 512;
// Processes that the agent keeps, running and ended together; when there are too many the ended
// ones are forgotten, the oldest first. Each that runs costs it up to three descriptors.
inline constexpr uint32_t kProcessesMax = 256;
static_assert(kProcessesMax <= kAgentCommandsMax);
// What the agent keeps of one process's output, and of that of all: reserved when one is started.
// One record is what one read(2) of its output gave, and counts with what it costs beside its
// bytes.
inline constexpr uint32_t kProcessLogBytesDefault = 256 * kKiB;
inline constexpr uint32_t kProcessLogBytesMin = 64 * kKiB;
inline constexpr uint32_t kProcessLogBytesMax = 16 * kMiB;
inline constexpr uint32_t kProcessLogsBytesMax = 64 * kMiB;
inline constexpr uint32_t kLogRecordBytesMax = 16 * kKiB;
inline constexpr uint32_t kLogRecordCostBytes = 96;
static_assert(kProcessesMax * kProcessLogBytesDefault <= kProcessLogsBytesMax);
static_assert(kProcessLogBytesMin >= 2 * (kLogRecordBytesMax + kLogRecordCostBytes));
// Words of a process's argv that ProcessInfo has: the agent keeps no more of them.
inline constexpr uint32_t kProcessArgvBytesMax = 4 * kKiB;
// A regular expression of WaitLog, and the steps that it is compiled to: each is looked at for each
// byte of a line at worst, so a line of the longest costs the agent some 0.1 s.
inline constexpr uint32_t kExpressionBytesMax = 1024;
inline constexpr uint32_t kExpressionStepsMax = 1000;
inline constexpr uint32_t kExpressionDepthMax = 64;
// Streams that one connection has open at once: all those commands, and as many others.
inline constexpr uint32_t kAgentStreamsMax = 1024;
static_assert(kAgentStreamsMax > kAgentCommandsMax);
// Sessions of one guest; a line for one, with its environment, which some shells read byte by byte;
// what waits in lines for all of them, and what one is created with: both are kept in the agent.
inline constexpr uint32_t kAgentSessionsMax = 64;
inline constexpr uint32_t kSessionLineBytesMax = 128 * kKiB;
inline constexpr uint32_t kSessionWaitingBytesMax = 1 * kMiB;
inline constexpr uint32_t kSessionEnvironmentBytesMax = 32 * kKiB;
static_assert(kSessionLineBytesMax < kSessionWaitingBytesMax);
// What the agent takes of one command's stdin before that has read it.
inline constexpr uint32_t kStdinCreditBytes = 128 * kKiB;
// What the host takes of one command's stdout, and of its stderr, before it has passed it on.
inline constexpr uint32_t kOutputCreditBytes = 256 * kKiB;
static_assert(kStdinCreditBytes >= 2 * kFrameChunkBytes &&
                  kOutputCreditBytes >= 2 * kFrameChunkBytes,
              "a chunk can be under way while the next is filled");
// A file's bytes in one frame: with what is around them no more than two packets of vsock have, of
// 64 KiB.
inline constexpr uint32_t kFileChunkBytes = 124 * kKiB;
// What the agent takes of one FileWrite before it has written it, and the host of one stream of
// file bytes or items before they are consumed. Half of it is granted at a time, and every grant is
// a message of its own; but what is under way holds up the connection's other streams. It and its
// half are whole chunks, or each would end with a small one.
inline constexpr uint32_t kFileCreditBytes = 8 * kFileChunkBytes;
// Frames that wait in the agent for a client that does not read its socket. Above it, the agent
// reads neither from that client nor from its commands.
inline constexpr uint32_t kAgentBacklogBytes = 256 * kKiB;
// What the guest's kernel takes of a client before the agent has read it: the host is told so late
// that there is room again that with less it would stop in between.
inline constexpr uint32_t kAgentSocketBytes = 512 * kKiB;
// Bytes of new entropy in one Identity: what seeds the kernel's generator, and far more.
inline constexpr uint32_t kEntropyBytesMin = 32;
inline constexpr uint32_t kEntropyBytesMax = 512;
// Code of one run of a context; and one answer to it: all that a run may show, escaped.
inline constexpr uint64_t kContextCodeBytesMax = 1 * kMiB;
inline constexpr uint64_t kContextAnswerBytesMax = 32 * kMiB;
// Answers that wait in a context's log for a client that is slow: above the 4 MiB of data that one
// run may show (context_python.py), as the last of them must not be lost.
inline constexpr uint64_t kContextLogBytes = 6 * kMiB;
static_assert(kContextLogBytes <= kProcessLogBytesMax);

}  // namespace spore::limits
