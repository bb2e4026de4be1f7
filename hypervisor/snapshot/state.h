#pragma once

// The state of a machine at rest, without its memory, as plain values; and as bytes
// (schema/snapshot.fbs). decode_state() is where a file's bytes become values: UNTRUSTED, see
// state_decode.cc. Fuzz target: fuzz_snapshot.

#include <array>
#include <string>
#include <variant>
#include <vector>

#include "devices/serial/serial.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/vsock_state.h"
#include "hypervisor/kvm/vcpu.h"
#include "hypervisor/memory/guest_memory.h"
#include "hypervisor/snapshot/memory_image.h"

namespace spore {

struct DiskState {
    struct Layer {
        std::string path;
        std::string map;  // empty for a raw image
        bool operator==(const Layer&) const = default;
    };
    bool read_only = false;
    bool layered = false;
    std::string path;  // of a raw disk
    uint64_t size_bytes = 0;
    std::vector<Layer> layers;  // lowest first, below the snapshot's own disk-N.img
    bool operator==(const DiskState&) const = default;
};
struct NetworkState {
    std::array<uint8_t, 6> mac = {};
    bool operator==(const NetworkState&) const = default;
};
struct RngState {
    bool operator==(const RngState&) const = default;
};

struct DeviceState {
    uint8_t slot = 0;  // on the PCI bus
    VirtioPciState transport;
    std::variant<DiskState, NetworkState, VsockState, RngState> kind;
};

struct MemoryState {
    std::vector<MemoryExtent> extents;  // one after another in the image
    MemoryImageInfo image;
};

struct MachineState {
    uint64_t created_unix_ns = 0;
    std::string spore_version;
    std::string cpu_vendor;
    std::string cpu_template;
    kvm_clock_data clock = {};
    std::vector<VcpuState> vcpus;
    MemoryState memory;
    std::vector<DeviceState> devices;
    SerialState serial;
};

std::vector<std::byte> encode_state(const MachineState& state);

// Checks everything that does not need a host to check: structure, sizes, counts, memory layout.
// Errors: corrupt, naming the field.
Result<MachineState> decode_state(std::span<const std::byte> payload);

// The files of a snapshot directory.
inline constexpr const char* kStateFile = "state.spore";
inline constexpr const char* kMemoryFile = "memory.img";
std::string disk_layer_file(size_t disk);  // "disk-0.img"
std::string disk_map_file(size_t disk);    // "disk-0.map"

}  // namespace spore
