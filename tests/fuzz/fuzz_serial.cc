// A guest that writes anything to the serial port, and states as they may lie in a file: what it
// takes on it saves the same, output comes out in order and complete.
//
// Input: steps; one byte says which, its arguments follow.

#include <cstdlib>

#include "devices/serial/serial.h"
#include "tests/fuzz/input.h"

namespace {

using namespace spore;

void require(bool holds) {
    if (!holds)
        std::abort();
}

class SerialFuzzer {
  public:
    explicit SerialFuzzer(fuzz::Input& input) : input_(input) {}
    ~SerialFuzzer() {
        serial_.flush();
        require(output_ == sent_);
    }

    void step() {
        switch (input_.take<uint8_t>() % 8) {
            case 0:
            case 1:
                return write(input_.take<uint8_t>() % 10, input_.take<uint8_t>());
            case 2:
                return write(0, input_.take<uint8_t>());
            case 3:
            case 4:
                (void)serial_.read(input_.take<uint8_t>() % 10);
                return;
            case 5: {
                auto bytes = input_.take_bytes(input_.take<uint16_t>());
                require(serial_.push_input(bytes) <= bytes.size());
                return;
            }
            case 6:
                return save_and_restore();
            default:
                return restore_anything();
        }
    }

  private:
    void write(uint16_t offset, uint8_t value) {
        bool latched = (serial_.read(3) & 0x80) != 0, loops = (serial_.read(4) & 0x10) != 0;
        if (offset == 0 && !latched && !loops)
            sent_.push_back(std::byte{value});
        serial_.write(offset, value);
    }
    void save_and_restore() {
        SerialState state = serial_.save();
        Serial other([](std::span<const std::byte>) {});
        require(other.restore(state).has_value());
        require(other.save() == state);
    }
    void restore_anything() {
        SerialState state;
        state.interrupt_enable = input_.take<uint8_t>();
        state.line_control = input_.take<uint8_t>();
        state.modem_control = input_.take<uint8_t>();
        state.divisor = input_.take<uint16_t>();
        state.fifo_enabled = (input_.take<uint8_t>() & 1) != 0;
        state.input.resize(input_.take<uint16_t>());
        state.loopback.resize(input_.take<uint8_t>());
        SerialState before = serial_.save();
        if (serial_.restore(state))
            require(serial_.save() == state);
        else
            require(serial_.save() == before);
    }

    fuzz::Input& input_;
    std::vector<std::byte> sent_, output_;
    Serial serial_{[this](std::span<const std::byte> bytes) {
        output_.insert(output_.end(), bytes.begin(), bytes.end());
    }};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Input input(data, size);
    SerialFuzzer fuzzer(input);
    for (int steps = 0; !input.empty() && steps < 1000; steps++)
        fuzzer.step();
    return 0;
}
