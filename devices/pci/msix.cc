#include "devices/pci/msix.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <string>

namespace spore {

namespace {

constexpr size_t kWords = MsiX::kEntryBytes / sizeof(uint32_t);
constexpr size_t kControlWord = PCI_MSIX_ENTRY_VECTOR_CTRL / sizeof(uint32_t);
static_assert(MsiX::kEntryBytes == PCI_MSIX_ENTRY_SIZE);

// Messages to 0xfeexxxxx are interrupts (Intel SDM 3A §10.11.1); to KVM others make no sense.
bool is_interrupt_address(uint64_t address) {
    return address >> 20 == 0xfee;
}

}  // namespace

MsiX::MsiX(uint16_t vectors, MsiSink& sink) : vectors_(vectors), sink_(sink) {
    assert(vectors > 0 && vectors <= kVectorsMax);
    state_.table.resize(vectors * kWords);
    state_.pending.resize(vectors);
    for (size_t vector = 0; vector < vectors; vector++)  // masked after reset (PCI 3.0 §6.8.2.9)
        state_.table[vector * kWords + kControlWord] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

void MsiX::read_table(uint32_t offset, std::span<std::byte> bytes) const {
    auto table = std::as_bytes(std::span(state_.table));
    for (size_t index = 0; index < bytes.size(); index++) {
        size_t at = size_t{offset} + index;
        bytes[index] = at < table.size() ? table[at] : std::byte{0};
    }
}

void MsiX::write_table(uint32_t offset, std::span<const std::byte> bytes) {
    auto table = std::as_writable_bytes(std::span(state_.table));
    if (bytes.empty() || offset >= table.size())
        return;
    size_t size = std::min(bytes.size(), table.size() - offset);
    std::memcpy(table.data() + offset, bytes.data(), size);
    for (size_t vector = offset / kEntryBytes; vector <= (offset + size - 1) / kEntryBytes;
         vector++) {
        state_.table[vector * kWords + kControlWord] &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
        send_pending(static_cast<uint16_t>(vector));
    }
}

void MsiX::read_pending(uint32_t offset, std::span<std::byte> bytes) const {
    for (size_t index = 0; index < bytes.size(); index++) {
        unsigned byte = 0;
        for (size_t bit = 0; bit < 8; bit++) {
            size_t vector = (size_t{offset} + index) * 8 + bit;
            if (vector < vectors_ && state_.pending[vector])
                byte |= 1u << bit;
        }
        bytes[index] = static_cast<std::byte>(byte);
    }
}

void MsiX::set_control(uint16_t control) {
    enabled_ = (control & PCI_MSIX_FLAGS_ENABLE) != 0;
    all_masked_ = (control & PCI_MSIX_FLAGS_MASKALL) != 0;
    for (uint16_t vector = 0; vector < vectors_; vector++)
        send_pending(vector);
}

void MsiX::signal(uint16_t vector) {
    if (!enabled_ || vector >= vectors_)
        return;
    if (masked(vector))
        state_.pending[vector] = true;
    else
        send(vector);
}

bool MsiX::masked(uint16_t vector) const {
    return all_masked_ || (state_.table[vector * kWords + kControlWord] & 1) != 0;
}

void MsiX::send_pending(uint16_t vector) {
    if (!enabled_ || !state_.pending[vector] || masked(vector))
        return;
    state_.pending[vector] = false;
    send(vector);
}

void MsiX::send(uint16_t vector) {
    const uint32_t* entry = &state_.table[vector * kWords];
    MsiMessage message = {uint64_t{entry[1]} << 32 | entry[0], entry[2]};
    if (is_interrupt_address(message.address))
        sink_.send(message);
    else
        ignored_messages_++;
}

Status MsiX::restore(const MsiXState& state, uint16_t control) {
    if (state.table.size() != state_.table.size())
        return fail(Code::corrupt, "msix table: " + std::to_string(state.table.size()) +
                                       " words, " + std::to_string(state_.table.size()) +
                                       " are due");
    if (state.pending.size() != vectors_)
        return fail(Code::corrupt, "msix pending: " + std::to_string(state.pending.size()) +
                                       " bits, " + std::to_string(vectors_) + " are due");
    for (size_t vector = 0; vector < vectors_; vector++) {
        if (state.table[vector * kWords + kControlWord] > PCI_MSIX_ENTRY_CTRL_MASKBIT)
            return fail(Code::corrupt,
                        "msix table: reserved control bits of vector " + std::to_string(vector));
    }
    state_ = state;
    enabled_ = (control & PCI_MSIX_FLAGS_ENABLE) != 0;
    all_masked_ = (control & PCI_MSIX_FLAGS_MASKALL) != 0;
    return {};
}

}  // namespace spore
