#pragma once

// What a pool's keeper and its zygote say to each other: one packet each way over a SOCK_SEQPACKET
// socket pair, the request with its descriptors (SCM_RIGHTS) in the order given below. The two come
// from one build and one host, so plain structs do. The zygote has read a snapshot, which may be
// hostile: the keeper takes nothing from its reply but whether it is one.

#include <cstdint>

#include "hypervisor/base/limits.h"

namespace spore {

enum class ZygoteStart : uint32_t {
    prepared = 1,  // devices and threads wait; VM and vCPUs are made when it gets its go
    built = 2,     // all is there; it runs when it gets its go
};

struct ZygoteRequest {
    static constexpr uint32_t kMagic = 0x59475a53;
    static constexpr uint32_t kDisksMax = 8;
    static constexpr uint32_t kNetworksMax = 8;
    // Descriptors: log, ready pipe, lease, console, control socket, vsock socket, go (a FIFO, open
    // for both), then the disks, then the networks, then the claim of the user and the socket to
    // whoever maps it, then the directory of the cgroup, then the counterparts' `tasks`.
    static constexpr uint32_t kFixedDescriptors = 7;
    static constexpr uint32_t kCgroupsV1Max = 3;
    static constexpr uint32_t kDescriptorsMax =
        kFixedDescriptors + kDisksMax + kNetworksMax + 3 + kCgroupsV1Max;

    uint32_t magic = kMagic;
    ZygoteStart start = ZygoteStart::prepared;
    uint32_t disks = 0;
    uint32_t networks = 0;
    uint32_t taps = 0;         // bit n: network n is a tap, else a connected Unix stream socket
    uint32_t stage_times = 0;  // 0 or 1
    uint32_t cgroups = 0;      // 0 or 1: the worker is forked into one
    uint32_t user = 0;         // 0: that of the zygote; else it becomes this one
    uint32_t cgroups_v1 = 0;   // it moves itself into so many, when it is that user
    // Its path, or why there is none; ends with a zero.
    char cgroup[limits::kCgroupTextBytesMax] = {};
};
static_assert(sizeof(ZygoteRequest) == 36 + limits::kCgroupTextBytesMax);

struct ZygoteReply {
    uint32_t magic = ZygoteRequest::kMagic;
    int32_t error = 0;  // errno of the fork; what comes after it goes to the worker's ready pipe
};
static_assert(sizeof(ZygoteReply) == 8);

}  // namespace spore
