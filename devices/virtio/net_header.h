#pragma once

// virtio-net's structures and numbers (virtio 1.2 §5.1). linux/virtio_net.h is not valid C++.

#include <array>
#include <cstdint>

namespace spore {

// Feature bits, §5.1.3.
inline constexpr unsigned kNetCsum = 0;
inline constexpr unsigned kNetGuestCsum = 1;
inline constexpr unsigned kNetMac = 5;
inline constexpr unsigned kNetGuestTso4 = 7;
inline constexpr unsigned kNetGuestTso6 = 8;
inline constexpr unsigned kNetHostTso4 = 11;
inline constexpr unsigned kNetHostTso6 = 12;
inline constexpr unsigned kNetMergeableBuffers = 15;
inline constexpr unsigned kNetStatus = 16;

// §5.1.4
struct NetConfigSpace {
    std::array<uint8_t, 6> mac = {};
    uint16_t status = 0;
};
static_assert(sizeof(NetConfigSpace) == 8);
inline constexpr uint16_t kNetLinkUp = 1;

// In front of every packet, §5.1.6.
struct NetHeader {
    uint8_t flags = 0;
    uint8_t gso_type = 0;
    uint16_t header_bytes = 0;  // hdr_len
    uint16_t gso_size = 0;
    uint16_t csum_start = 0;
    uint16_t csum_offset = 0;
    uint16_t buffers = 0;  // num_buffers
};
static_assert(sizeof(NetHeader) == 12);

inline constexpr uint8_t kNetNeedsCsum = 1;  // flags
inline constexpr uint8_t kNetGsoNone = 0;    // gso_type
inline constexpr uint8_t kNetGsoTcp4 = 1;
inline constexpr uint8_t kNetGsoTcp6 = 4;

// How many packets a frame is once it has been segmented.
inline uint64_t packets_of(const NetHeader& header, size_t frame_bytes) {
    if (header.gso_type == kNetGsoNone || header.gso_size == 0)
        return 1;
    return (frame_bytes + header.gso_size - 1) / header.gso_size;
}

}  // namespace spore
