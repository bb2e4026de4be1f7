#pragma once

// What a machine is to be: a plain aggregate in, a validated one out.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/base/rate.h"
#include "hypervisor/base/result.h"

namespace spore {

struct DiskConfig {
    std::string path;
    bool read_only = false;
    // Read-only layers under a copy-on-write top at `path`, lowest first, each with its map's file
    // (empty for a plain raw image). None: `path` is the raw disk itself.
    struct Layer {
        std::string path;
        std::string map;
    };
    std::vector<Layer> layers;
    uint64_t size_bytes = 0;  // of a layered disk; 0: the lowest layer's
};

struct NetworkConfig {
    std::string tap;          // either a tap's name,
    std::string socket_path;  // or a Unix stream socket (passt's framing)
    int tap_fd = -1;          // or a descriptor attached to one; `tap` is then for messages
    std::string mac;          // "02:..", or empty for a random one
};

struct MachineConfig {
    uint64_t memory_bytes = 256ull << 20;  // limits::kMemoryBytesMin.., a multiple of 4 KiB
    uint32_t cpus = 1;                     // 1..limits::kVcpusMax
    std::string cpu_template = "host";
    std::string kernel;  // ELF vmlinux or bzImage
    std::string initrd;  // may be empty
    std::string command_line;
    std::vector<DiskConfig> disks;
    std::vector<NetworkConfig> networks;
    std::string vsock_path;  // empty: no vsock device
    uint32_t vsock_cid = 3;
    RateLimits disk_rate;              // of each disk
    RateLimits network_rate;           // of each network card, in each direction
    bool interactive_console = false;  // hand on every byte at once, prompts too
};

// Checks every field; the error names the field, the value and the bound. Files are looked at when
// they are opened. Errors: invalid_argument.
Status validate(const MachineConfig& config);

// "F", "F,ro", or "F[,layer=B[:MAP]]...[,size=N]" for a copy-on-write one. Errors:
// invalid_argument.
Result<DiskConfig> parse_disk(std::string_view text);

// "tap=NAME[,mac=M]", "tap-fd=N[,mac=M]" or "socket=PATH[,mac=M]". Errors: invalid_argument.
Result<NetworkConfig> parse_network(std::string_view text);

}  // namespace spore
