#pragma once

// A 16550A serial port (COM1) without an interrupt line: the guest polls it. UNTRUSTED: every
// access is the guest's, a SerialState is a file's. Fuzz target: fuzz-serial.

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "hypervisor/base/result.h"

namespace spore {

// All there is to save; output is flushed, not saved.
struct SerialState {
    uint8_t interrupt_enable = 0;
    uint8_t line_control = 0;
    uint8_t modem_control = 0;
    uint8_t scratch = 0;
    uint16_t divisor = 1;
    bool fifo_enabled = false;
    bool transmitter_empty_pending = false;  // would interrupt, were there a line
    std::vector<uint8_t> input;              // received, not read yet
    std::vector<uint8_t> loopback;           // sent to itself, not read yet

    bool operator==(const SerialState&) const = default;
};

// Any thread: a small mutex. Sending never waits: the transmitter is always empty.
class Serial {
  public:
    // Gets what the guest wrote, at a newline, after kOutputBytes, and at flush(). Called under
    // the port's lock on the thread that caused it: it must not wait, nor call back.
    using Sink = std::function<void(std::span<const std::byte>)>;

    static constexpr uint16_t kBasePort = 0x3f8;  // COM1
    static constexpr uint16_t kPorts = 8;
    static constexpr size_t kOutputBytes = 256;
    static constexpr size_t kInputBytesMax = 4096;
    static constexpr size_t kFifoBytes = 16;  // of a 16550A: what loopback holds

    explicit Serial(Sink sink) : sink_(std::move(sink)) {}
    ~Serial() { flush(); }
    Serial(const Serial&) = delete;
    Serial& operator=(const Serial&) = delete;

    // The register at kBasePort + `offset`; `offset` 0..7 (others read 0xff and ignore writes).
    uint8_t read(uint16_t offset);
    void write(uint16_t offset, uint8_t value);

    // Bytes for the guest to receive; returns how many there was room for.
    size_t push_input(std::span<const std::byte> bytes);
    // Hands unfinished lines to the sink: call it now and then, and at the end.
    void flush();

    // Flushes, then tells everything.
    SerialState save();
    // Errors: corrupt, naming the field; nothing is changed then.
    Status restore(const SerialState& state);

  private:
    bool divisor_latch() const { return (state_.line_control & 0x80) != 0; }
    bool loops_back() const;
    std::deque<uint8_t>& receiver() { return loops_back() ? loopback_ : input_; }
    uint8_t receive();
    void transmit(uint8_t value);
    uint8_t interrupt_identification();
    uint8_t line_status();
    uint8_t modem_status() const;
    void write_fifo_control(uint8_t value);
    void flush_locked();

    std::mutex mutex_;
    Sink sink_;
    SerialState state_;  // input and loopback are empty here: they are in the queues
    std::deque<uint8_t> input_;
    std::deque<uint8_t> loopback_;
    std::array<std::byte, kOutputBytes> output_;
    size_t output_bytes_ = 0;
};

}  // namespace spore
