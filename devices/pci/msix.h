#pragma once

// MSI-X (PCI 3.0 §6.8.2): table, pending bits and their masks. UNTRUSTED: all of the table is the
// guest's. Fuzz target: fuzz-pci-transport.

#include <cstdint>
#include <span>
#include <vector>

#include "devices/pci/msi.h"
#include "hypervisor/base/result.h"

namespace spore {

// All there is to save, beside the control word in configuration space.
struct MsiXState {
    std::vector<uint32_t> table;  // 4 words a vector: address, upper address, data, control
    std::vector<bool> pending;    // one for each vector

    bool operator==(const MsiXState&) const = default;
};

// Loop thread only.
class MsiX {
  public:
    static constexpr uint16_t kVectorsMax = 256;  // what fits the page that holds the table
    static constexpr uint32_t kEntryBytes = 16;

    // `vectors`: 1..kVectorsMax (asserted). `sink` must outlive this.
    MsiX(uint16_t vectors, MsiSink& sink);

    uint16_t vectors() const { return vectors_; }

    // The table and the pending bit array, offsets from their starts. Any width and alignment;
    // zeros beyond the end. The pending bits cannot be written.
    void read_table(uint32_t offset, std::span<std::byte> bytes) const;
    void write_table(uint32_t offset, std::span<const std::byte> bytes);
    void read_pending(uint32_t offset, std::span<std::byte> bytes) const;

    // The message control word in configuration space (PCI_MSIX_FLAGS) is now this.
    void set_control(uint16_t control);

    // Sends `vector`'s message, or notes it as pending while masked. Without MSI-X enabled, or
    // with a vector that is not there, nothing happens: there is no other kind of interrupt.
    void signal(uint16_t vector);

    // Messages not sent because their address is no interrupt address.
    uint64_t ignored_messages() const { return ignored_messages_; }

    const MsiXState& state() const { return state_; }
    // Errors: corrupt. Sends nothing.
    Status restore(const MsiXState& state, uint16_t control);

  private:
    bool masked(uint16_t vector) const;
    void send(uint16_t vector);
    void send_pending(uint16_t vector);

    uint16_t vectors_;
    MsiSink& sink_;
    MsiXState state_;
    bool enabled_ = false;
    bool all_masked_ = false;
    uint64_t ignored_messages_ = 0;
};

}  // namespace spore
