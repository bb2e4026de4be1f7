#include "devices/pci/config_space.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <cassert>
#include <cstdio>

namespace spore {

const std::byte* ConfigSpace::window(const Bytes& bytes, uint32_t offset, size_t size) {
    assert(size <= kBytes && offset <= kBytes - size);
    return bytes.data() + offset;
}

std::byte* ConfigSpace::window(Bytes& bytes, uint32_t offset, size_t size) {
    assert(size <= kBytes && offset <= kBytes - size);
    return bytes.data() + offset;
}

uint32_t ConfigSpace::add_capability(uint8_t id, std::span<const std::byte> body) {
    uint32_t offset = next_capability_;
    assert(offset + PCI_CAP_FLAGS + body.size() <= kBytes);
    set<uint8_t>(offset + PCI_CAP_LIST_ID, id);
    std::copy(body.begin(), body.end(), bytes_.begin() + offset + PCI_CAP_FLAGS);
    auto status = get<uint16_t>(PCI_STATUS);
    set<uint16_t>(PCI_STATUS, status | PCI_STATUS_CAP_LIST);
    uint32_t pointer =
        last_capability_ == 0 ? PCI_CAPABILITY_LIST : last_capability_ + PCI_CAP_LIST_NEXT;
    set<uint8_t>(pointer, static_cast<uint8_t>(offset));
    last_capability_ = offset;
    // The bottom two bits of the pointers are reserved (PCI 3.0 §6.7).
    next_capability_ = static_cast<uint32_t>((offset + PCI_CAP_FLAGS + body.size() + 3) & ~3ull);
    return offset;
}

void ConfigSpace::read(uint32_t offset, std::span<std::byte> bytes) const {
    for (size_t index = 0; index < bytes.size(); index++) {
        size_t at = size_t{offset} + index;
        bytes[index] = at < kBytes ? bytes_[at] : std::byte{0};
    }
}

void ConfigSpace::write(uint32_t offset, std::span<const std::byte> bytes) {
    for (size_t index = 0; index < bytes.size(); index++) {
        size_t at = size_t{offset} + index;
        if (at < kBytes)
            bytes_[at] = (bytes_[at] & ~masks_[at]) | (bytes[index] & masks_[at]);
    }
}

Status ConfigSpace::restore(std::span<const uint8_t> bytes) {
    char text[96];
    if (bytes.size() != kBytes) {
        std::snprintf(text, sizeof(text), "pci config space: %zu bytes, %u are due", bytes.size(),
                      kBytes);
        return fail(Code::corrupt, text);
    }
    for (size_t at = 0; at < kBytes; at++) {
        std::byte fixed = ~masks_[at];
        if (((std::byte{bytes[at]} ^ bytes_[at]) & fixed) != std::byte{0}) {
            std::snprintf(text, sizeof(text),
                          "pci config space: byte 0x%02zx is 0x%02x, not 0x%02x", at, bytes[at],
                          std::to_integer<unsigned>(bytes_[at]));
            return fail(Code::corrupt, text);
        }
    }
    std::memcpy(bytes_.data(), bytes.data(), kBytes);
    return {};
}

}  // namespace spore
