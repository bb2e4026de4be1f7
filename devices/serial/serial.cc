#include "devices/serial/serial.h"

#include <linux/serial_reg.h>

#include <algorithm>
#include <string>

namespace spore {

namespace {

constexpr uint8_t kInterruptEnableBits = 0x0f;
constexpr uint8_t kModemControlBits = 0x1f;
constexpr uint8_t kFifosEnabled = 0xc0;  // in the interrupt identification register

}  // namespace

uint8_t Serial::read(uint16_t offset) {
    std::lock_guard lock(mutex_);
    switch (offset) {
        case UART_RX:
            return divisor_latch() ? static_cast<uint8_t>(state_.divisor) : receive();
        case UART_IER:
            return divisor_latch() ? static_cast<uint8_t>(state_.divisor >> 8)
                                   : state_.interrupt_enable;
        case UART_IIR:
            return interrupt_identification();
        case UART_LCR:
            return state_.line_control;
        case UART_MCR:
            return state_.modem_control;
        case UART_LSR:
            return line_status();
        case UART_MSR:
            return modem_status();
        case UART_SCR:
            return state_.scratch;
        default:
            return 0xff;
    }
}

void Serial::write(uint16_t offset, uint8_t value) {
    std::lock_guard lock(mutex_);
    switch (offset) {
        case UART_TX:
            if (divisor_latch())
                state_.divisor = static_cast<uint16_t>((state_.divisor & 0xff00) | value);
            else
                transmit(value);
            return;
        case UART_IER:
            if (divisor_latch()) {
                state_.divisor = static_cast<uint16_t>((state_.divisor & 0xff) | value << 8);
                return;
            }
            // Enabling the transmitter's interrupt raises it: the transmitter is empty.
            if ((value & ~state_.interrupt_enable & UART_IER_THRI) != 0)
                state_.transmitter_empty_pending = true;
            state_.interrupt_enable = value & kInterruptEnableBits;
            return;
        case UART_FCR:
            return write_fifo_control(value);
        case UART_LCR:
            state_.line_control = value;
            return;
        case UART_MCR:
            state_.modem_control = value & kModemControlBits;
            if (!loops_back())
                loopback_.clear();
            return;
        case UART_SCR:
            state_.scratch = value;
            return;
        default:
            return;  // line and modem status are read-only
    }
}

bool Serial::loops_back() const {
    return (state_.modem_control & UART_MCR_LOOP) != 0;
}

uint8_t Serial::receive() {
    auto& from = receiver();
    if (from.empty())
        return 0;
    uint8_t value = from.front();
    from.pop_front();
    return value;
}

void Serial::transmit(uint8_t value) {
    state_.transmitter_empty_pending = true;  // sent at once
    if (loops_back()) {
        // Drivers tell the chip by how much it holds.
        if (loopback_.size() < (state_.fifo_enabled ? kFifoBytes : 1))
            loopback_.push_back(value);
        return;
    }
    output_[output_bytes_++] = static_cast<std::byte>(value);
    if (value == '\n' || output_bytes_ == output_.size())
        flush_locked();
}

// Linux without an interrupt line asks this register on a timer instead.
uint8_t Serial::interrupt_identification() {
    uint8_t fifos = state_.fifo_enabled ? kFifosEnabled : 0;
    if ((state_.interrupt_enable & UART_IER_RDI) != 0 && !receiver().empty())
        return fifos | UART_IIR_RDI;
    if ((state_.interrupt_enable & UART_IER_THRI) != 0 && state_.transmitter_empty_pending) {
        state_.transmitter_empty_pending = false;  // reading it is the acknowledgement
        return fifos | UART_IIR_THRI;
    }
    return fifos | UART_IIR_NO_INT;
}

uint8_t Serial::line_status() {
    uint8_t status = UART_LSR_THRE | UART_LSR_TEMT;
    return receiver().empty() ? status : status | UART_LSR_DR;
}

// In loopback the modem's outputs come back as its inputs; else a ready peer is there.
uint8_t Serial::modem_status() const {
    if (!loops_back())
        return UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD;
    uint8_t status = 0;
    if (state_.modem_control & UART_MCR_RTS)
        status |= UART_MSR_CTS;
    if (state_.modem_control & UART_MCR_DTR)
        status |= UART_MSR_DSR;
    if (state_.modem_control & UART_MCR_OUT1)
        status |= UART_MSR_RI;
    if (state_.modem_control & UART_MCR_OUT2)
        status |= UART_MSR_DCD;
    return status;
}

void Serial::write_fifo_control(uint8_t value) {
    bool enable = (value & UART_FCR_ENABLE_FIFO) != 0;
    // Switching the FIFOs on or off empties them too.
    if ((value & UART_FCR_CLEAR_RCVR) != 0 || enable != state_.fifo_enabled) {
        input_.clear();
        loopback_.clear();
    }
    state_.fifo_enabled = enable;
}

size_t Serial::push_input(std::span<const std::byte> bytes) {
    std::lock_guard lock(mutex_);
    size_t size = std::min(bytes.size(), kInputBytesMax - input_.size());
    for (std::byte byte : bytes.first(size))
        input_.push_back(std::to_integer<uint8_t>(byte));
    return size;
}

void Serial::flush() {
    std::lock_guard lock(mutex_);
    flush_locked();
}

void Serial::flush_locked() {
    if (output_bytes_ == 0)
        return;
    size_t size = output_bytes_;
    output_bytes_ = 0;
    sink_(std::span(output_).first(size));
}

SerialState Serial::save() {
    std::lock_guard lock(mutex_);
    flush_locked();
    SerialState state = state_;
    state.input.assign(input_.begin(), input_.end());
    state.loopback.assign(loopback_.begin(), loopback_.end());
    return state;
}

Status Serial::restore(const SerialState& state) {
    auto check = [](const char* field, uint64_t value, uint64_t bound) -> Status {
        if (value > bound)
            return fail(Code::corrupt, std::string("serial ") + field + " " +
                                           std::to_string(value) + ", at most " +
                                           std::to_string(bound));
        return {};
    };
    TRY(check("interrupt_enable", state.interrupt_enable, kInterruptEnableBits));
    TRY(check("modem_control", state.modem_control, kModemControlBits));
    TRY(check("input bytes", state.input.size(), kInputBytesMax));
    bool loops = (state.modem_control & UART_MCR_LOOP) != 0;
    TRY(check("loopback bytes", state.loopback.size(), loops ? kFifoBytes : 0));
    std::lock_guard lock(mutex_);
    state_ = state;
    input_.assign(state.input.begin(), state.input.end());
    loopback_.assign(state.loopback.begin(), state.loopback.end());
    state_.input.clear();
    state_.loopback.clear();
    return {};
}

}  // namespace spore
