#include "hypervisor/base/crc32c.h"

#include <cpuid.h>
#include <nmmintrin.h>

#include <array>
#include <cstring>

namespace spore {

namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bit-reversed

constexpr std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table = {};
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
        table[byte] = value;
    }
    return table;
}

constexpr std::array<uint32_t, 256> kTable = make_table();

uint32_t by_table(std::span<const std::byte> bytes, uint32_t crc) {
    for (std::byte byte : bytes)
        crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint32_t>(byte)) & 0xff];
    return crc;
}

[[gnu::target("sse4.2")]] uint32_t by_instruction(std::span<const std::byte> bytes, uint32_t crc) {
    uint64_t wide = crc;
    while (bytes.size() >= 8) {
        uint64_t word;
        std::memcpy(&word, bytes.data(), 8);
        wide = _mm_crc32_u64(wide, word);
        bytes = bytes.subspan(8);
    }
    crc = static_cast<uint32_t>(wide);
    for (std::byte byte : bytes)
        crc = _mm_crc32_u8(crc, static_cast<unsigned char>(byte));
    return crc;
}

// Asked once, and here: __builtin_cpu_supports() asks some twenty times before main(), which costs
// 80 us where CPUID leaves a virtual machine.
bool has_sse42() {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_SSE4_2) != 0;
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
    static const bool has_instruction = has_sse42();
    return ~(has_instruction ? by_instruction(bytes, ~before) : by_table(bytes, ~before));
}

}  // namespace spore
