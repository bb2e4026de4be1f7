#pragma once

// Builds ACPI Machine Language (ACPI 6.5 §20.2): just the terms that the DSDT needs.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace spore::aml {

using Bytes = std::vector<std::byte>;

// Appends `parts` to one another.
Bytes join(std::initializer_list<std::span<const std::byte>> parts);

// --- Data objects.
Bytes integer(uint64_t value);
Bytes string(std::string_view text);
Bytes eisa_id(std::string_view id);  // "PNP0A08"
Bytes package(std::span<const uint64_t> values);

// --- Named objects. `name` is up to four characters A-Z, 0-9, _ ("_SB", "PCI0"); "\\" before it
// makes it absolute.
Bytes name(std::string_view name, std::span<const std::byte> object);
Bytes scope(std::string_view name, std::span<const std::byte> terms);
Bytes device(std::string_view name, std::span<const std::byte> terms);

// --- Resource templates (§6.4): descriptors, joined by resource_template().
Bytes resource_template(std::initializer_list<std::span<const std::byte>> descriptors);
Bytes bus_numbers(uint16_t first, uint16_t last);
Bytes memory_window(uint32_t start, uint32_t size);  // what a bridge hands on, not cacheable
Bytes fixed_memory(uint32_t start, uint32_t size);   // what a device takes
Bytes fixed_ports(uint16_t start, uint8_t count);

}  // namespace spore::aml
