#include "hypervisor/vmm/config.h"

#include <charconv>

#include "hypervisor/base/invalid.h"
#include "hypervisor/base/limits.h"
#include "hypervisor/base/parse_size.h"

namespace spore {

namespace {

std::string mebibytes(uint64_t bytes) {
    return std::to_string(bytes / limits::kMiB) + "M";
}

// Splits off the text up to the next comma.
std::string_view take_part(std::string_view& rest) {
    size_t comma = rest.find(',');
    std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    return part;
}

}  // namespace

Status validate(const MachineConfig& config) {
    if (config.memory_bytes < limits::kMemoryBytesMin ||
        config.memory_bytes > limits::kMemoryBytesMax)
        return invalid("memory", std::to_string(config.memory_bytes) + " bytes",
                       "must be from " + mebibytes(limits::kMemoryBytesMin) + " to " +
                           mebibytes(limits::kMemoryBytesMax));
    if (config.memory_bytes % 4096 != 0)
        return invalid("memory", std::to_string(config.memory_bytes) + " bytes",
                       "must be a multiple of 4096");
    if (config.cpus < 1 || config.cpus > limits::kVcpusMax)
        return invalid("cpus", std::to_string(config.cpus),
                       "must be from 1 to " + std::to_string(limits::kVcpusMax));
    if (config.vsock_path.size() >= limits::kUnixPathBytesMax)
        return invalid("vsock", config.vsock_path,
                       "is " + std::to_string(config.vsock_path.size()) +
                           " bytes long, a socket's path may have " +
                           std::to_string(limits::kUnixPathBytesMax - 1));
    // Slot 0 is the host bridge, one slot each for vsock and rng.
    if (config.disks.size() + config.networks.size() > limits::kPciSlots - 3)
        return invalid("disks and networks",
                       std::to_string(config.disks.size() + config.networks.size()),
                       "at most " + std::to_string(limits::kPciSlots - 3) + " together");
    return {};
}

Result<DiskConfig> parse_disk(std::string_view text) {
    DiskConfig disk;
    std::string_view rest = text;
    disk.path = take_part(rest);
    if (disk.path.empty())
        return invalid("disk", text, "names no file");
    while (!rest.empty()) {
        std::string_view part = take_part(rest);
        if (part == "ro") {
            disk.read_only = true;
        } else if (part.starts_with("layer=")) {
            std::string_view layer = part.substr(6);
            size_t colon = layer.find(':');
            disk.layers.push_back(
                {std::string(layer.substr(0, colon)),
                 std::string(colon == std::string_view::npos ? "" : layer.substr(colon + 1))});
        } else if (part.starts_with("size=")) {
            disk.size_bytes = TRY(parse_size("disk size", part.substr(5)));
        } else {
            return invalid("disk", text,
                           "'" + std::string(part) + "' is not ro, layer=FILE[:MAP] or size=N");
        }
    }
    if (disk.read_only && !disk.layers.empty())
        return invalid("disk", text, "a disk with layers is written to: ro does not go with it");
    if (disk.layers.empty() && disk.size_bytes != 0)
        return invalid("disk", text, "size= goes with layer= only");
    return disk;
}

Result<NetworkConfig> parse_network(std::string_view text) {
    NetworkConfig network;
    std::string_view rest = text;
    while (!rest.empty()) {
        std::string_view part = take_part(rest);
        size_t equals = part.find('=');
        std::string_view key = part.substr(0, equals);
        std::string value(equals == std::string_view::npos ? "" : part.substr(equals + 1));
        if (value.empty())
            return invalid("net", text, "'" + std::string(part) + "' has no value");
        if (key == "tap-fd") {
            auto [end, error] =
                std::from_chars(value.data(), value.data() + value.size(), network.tap_fd);
            if (error != std::errc() || *end != '\0' || network.tap_fd < 3)
                return invalid("net", text, "tap-fd must be the number of an open descriptor");
            network.tap = "descriptor " + value;
        } else if (key == "tap") {
            network.tap = value;
        } else if (key == "socket") {
            network.socket_path = value;
        } else if (key == "mac") {
            network.mac = value;
        } else {
            return invalid("net", text,
                           "'" + std::string(key) + "' is not tap, tap-fd, socket or mac");
        }
    }
    if (network.tap.empty() == network.socket_path.empty())
        return invalid("net", text, "needs either tap=NAME or socket=PATH");
    return network;
}

}  // namespace spore
