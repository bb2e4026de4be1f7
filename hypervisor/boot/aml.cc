#include "hypervisor/boot/aml.h"

#include <algorithm>
#include <cassert>
#include <initializer_list>

namespace spore::aml {

namespace {

void put(Bytes& bytes, uint64_t value, size_t size) {
    for (size_t index = 0; index < size; index++)
        bytes.push_back(static_cast<std::byte>(value >> (8 * index)));
}

void append(Bytes& bytes, std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
}

// §20.2.4: the length counts its own bytes. One byte holds 6 bits; of more, the first holds 4 and
// the number of those that follow.
Bytes package_length(size_t content) {
    Bytes bytes;
    if (content + 1 < 64) {
        put(bytes, content + 1, 1);
        return bytes;
    }
    size_t more = content + 2 < (1u << 12) ? 1 : content + 3 < (1u << 20) ? 2 : 3;
    size_t length = content + 1 + more;
    assert(length < (1u << 28));
    put(bytes, more << 6 | (length & 0xF), 1);
    put(bytes, length >> 4, more);
    return bytes;
}

// Opcode bytes, package length, content.
Bytes packaged(std::initializer_list<uint8_t> opcode, std::span<const std::byte> content) {
    Bytes bytes;
    for (uint8_t byte : opcode)
        put(bytes, byte, 1);
    append(bytes, package_length(content.size()));
    append(bytes, content);
    return bytes;
}

// §20.2.2: four characters, filled up with underscores.
Bytes name_string(std::string_view text) {
    Bytes bytes;
    if (text.starts_with('\\')) {
        put(bytes, '\\', 1);
        text.remove_prefix(1);
    }
    assert(!text.empty() && text.size() <= 4);
    for (size_t index = 0; index < 4; index++)
        put(bytes, static_cast<uint8_t>(index < text.size() ? text[index] : '_'), 1);
    return bytes;
}

constexpr uint8_t kMinFixed = 1 << 2;  // §6.4.3.5.1, general flags
constexpr uint8_t kMaxFixed = 1 << 3;

}  // namespace

Bytes join(std::initializer_list<std::span<const std::byte>> parts) {
    Bytes bytes;
    for (auto part : parts)
        append(bytes, part);
    return bytes;
}

Bytes integer(uint64_t value) {
    Bytes bytes;
    if (value <= 1) {
        put(bytes, value, 1);  // ZeroOp, OneOp
    } else if (value <= 0xFF) {
        put(bytes, 0x0A, 1);
        put(bytes, value, 1);
    } else if (value <= 0xFFFF) {
        put(bytes, 0x0B, 1);
        put(bytes, value, 2);
    } else if (value <= 0xFFFF'FFFF) {
        put(bytes, 0x0C, 1);
        put(bytes, value, 4);
    } else {
        put(bytes, 0x0E, 1);
        put(bytes, value, 8);
    }
    return bytes;
}

Bytes string(std::string_view text) {
    Bytes bytes;
    put(bytes, 0x0D, 1);
    append(bytes, std::as_bytes(std::span(text)));
    put(bytes, 0, 1);
    return bytes;
}

// §19.3.4: three letters of 5 bits and four hexadecimal digits, the whole byte-swapped.
Bytes eisa_id(std::string_view id) {
    assert(id.size() == 7);
    uint32_t value = 0;
    for (char letter : id.substr(0, 3))
        value = value << 5 | static_cast<uint32_t>(letter - 'A' + 1);
    for (char digit : id.substr(3))
        value = value << 4 | static_cast<uint32_t>(digit <= '9' ? digit - '0' : digit - 'A' + 10);
    Bytes bytes;
    put(bytes, 0x0C, 1);
    put(bytes, __builtin_bswap32(value), 4);
    return bytes;
}

Bytes package(std::span<const uint64_t> values) {
    assert(values.size() <= 0xFF);
    Bytes content;
    put(content, values.size(), 1);
    for (uint64_t value : values)
        append(content, integer(value));
    return packaged({0x12}, content);
}

Bytes name(std::string_view name, std::span<const std::byte> object) {
    Bytes bytes;
    put(bytes, 0x08, 1);
    append(bytes, name_string(name));
    append(bytes, object);
    return bytes;
}

Bytes scope(std::string_view name, std::span<const std::byte> terms) {
    return packaged({0x10}, join({name_string(name), terms}));
}

Bytes device(std::string_view name, std::span<const std::byte> terms) {
    return packaged({0x5B, 0x82}, join({name_string(name), terms}));
}

Bytes resource_template(std::initializer_list<std::span<const std::byte>> descriptors) {
    Bytes resources = join(descriptors);
    put(resources, 0x79, 1);  // end tag, §6.4.2.9; a checksum of 0 is taken for right
    put(resources, 0, 1);
    return packaged({0x11}, join({integer(resources.size()), resources}));
}

Bytes bus_numbers(uint16_t first, uint16_t last) {
    Bytes bytes;
    put(bytes, 0x88, 1);  // word address space, §6.4.3.5.3
    put(bytes, 13, 2);
    put(bytes, 2, 1);  // bus number range
    put(bytes, kMinFixed | kMaxFixed, 1);
    put(bytes, 0, 1);
    put(bytes, 0, 2);  // granularity
    put(bytes, first, 2);
    put(bytes, last, 2);
    put(bytes, 0, 2);  // translation
    put(bytes, static_cast<uint64_t>(last) - first + 1, 2);
    return bytes;
}

Bytes memory_window(uint32_t start, uint32_t size) {
    Bytes bytes;
    put(bytes, 0x87, 1);  // double word address space, §6.4.3.5.2
    put(bytes, 23, 2);
    put(bytes, 0, 1);  // memory range
    put(bytes, kMinFixed | kMaxFixed, 1);
    put(bytes, 1, 1);  // read and write, not cacheable
    put(bytes, 0, 4);  // granularity
    put(bytes, start, 4);
    put(bytes, uint64_t{start} + size - 1, 4);
    put(bytes, 0, 4);  // translation
    put(bytes, size, 4);
    return bytes;
}

Bytes fixed_memory(uint32_t start, uint32_t size) {
    Bytes bytes;
    put(bytes, 0x86, 1);  // 32-bit fixed memory range, §6.4.3.4
    put(bytes, 9, 2);
    put(bytes, 1, 1);  // writable
    put(bytes, start, 4);
    put(bytes, size, 4);
    return bytes;
}

Bytes fixed_ports(uint16_t start, uint8_t count) {
    Bytes bytes;
    put(bytes, 0x47, 1);  // I/O ports, §6.4.2.5
    put(bytes, 1, 1);     // decodes 16 bits
    put(bytes, start, 2);
    put(bytes, start, 2);
    put(bytes, 1, 1);  // alignment
    put(bytes, count, 1);
    return bytes;
}

}  // namespace spore::aml
