#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace spore {

// CRC-32C (Castagnoli, RFC 3720 §12.1) of `bytes`, continuing from `before`, the CRC of what stands
// before them. Finds every change of up to 32 bits in a row; it is no defence against forgery.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace spore
