// A guest that writes anything to configuration space, BARs and memory of a bus with two devices,
// and states as they may lie in a file: nothing crashes, what the transport takes on it saves the
// same, and a device that was reset starts again.
//
// Input: steps; one byte says which, its arguments follow.

#include <cstdlib>
#include <memory>
#include <optional>

#include "devices/virtio/rng.h"
#include "tests/fuzz/input.h"
#include "tests/unit/support/holding_device.h"
#include "tests/unit/support/transport_driver.h"

namespace {

using namespace spore;

constexpr uint64_t kMemoryBytes = 256 * limits::kKiB;
constexpr uint64_t kFirstBar = 0xe0000000;
constexpr uint32_t kHoldingSlot = 1, kRngSlot = 2;

void require(bool holds) {
    if (!holds)
        std::abort();
}

EventLoop& loop() {
    static auto loop = std::move(*EventLoop::create());
    return *loop;
}

GuestMemory& memory() {
    static GuestMemory memory = test::make_memory(kMemoryBytes);
    return memory;
}

// Lets the loop serve what is there, without waiting.
void turn() {
    bool turned = false;
    loop().post([&] { turned = true; });
    require(loop().run_until([&] { return turned; }, std::chrono::seconds(10)));
}

class CheckingSink : public MsiSink {
  public:
    void send(const MsiMessage& message) override { require(message.address >> 20 == 0xfee); }
};

struct Machine {
    Machine() {
        rng_transport.assign_bar(GuestAddress(kFirstBar));
        transport.assign_bar(GuestAddress(kFirstBar + 0x8000));
        require(bus.attach(kHoldingSlot, transport).has_value());
        require(bus.attach(kRngSlot, rng_transport).has_value());
    }
    ~Machine() {
        while (!device.held.empty())
            device.complete();
        loop().drain();
    }

    // To where a snapshot may be taken.
    void quiesce() {
        bool quiet = false, rng_quiet = false;
        device.quiesce([&] { quiet = true; });
        rng.quiesce([&] { rng_quiet = true; });
        while (!device.held.empty())
            device.complete();
        require(loop().run_until([&] { return quiet && rng_quiet; }, std::chrono::seconds(10)));
    }

    CheckingSink msi;
    test::FakeDoorbells doorbells;
    test::HoldingDevice device{memory(), loop()};
    VirtioRng rng{memory(), loop()};
    VirtioPciTransport transport{device, loop(), msi, doorbells};
    VirtioPciTransport rng_transport{rng, loop(), msi, doorbells};
    PciBus bus;
};

class TransportFuzzer {
  public:
    explicit TransportFuzzer(fuzz::Input& input) : input_(input) {
        auto all = memory().regions().front().mapping.span();
        std::memset(all.data(), 0, all.size());
    }

    void step() {
        switch (input_.take<uint8_t>() % 16) {
            case 0:
            case 1:
                return access_config();
            case 2:
            case 3:
            case 4:
                return access_bar();
            case 5:
                return write_memory();
            case 6:
            case 7:
                return publish();
            case 8:
                return start();
            case 9:
                return ring();
            case 10:
                if (!machine_->device.held.empty())
                    machine_->device.complete();
                return;
            case 11:
                machine_->device.change_config();
                return turn();
            case 12:
                return save_and_restore();
            case 13:
                return restore_anything();
            case 14:
                return access_address();
            default:
                return reset_and_start();
        }
    }

  private:
    uint32_t take_slot() { return input_.take<uint8_t>() % 4; }  // one is not there
    std::span<std::byte> take_buffer() {
        size_t size = size_t{1} << (input_.take<uint8_t>() & 3);
        auto bytes = input_.take_bytes(size);
        std::memset(buffer_, 0, sizeof(buffer_));
        std::memcpy(buffer_, bytes.data(), bytes.size());
        return std::span(buffer_).first(size);
    }
    void access_config() {
        uint32_t offset = take_slot() << 15 | (input_.take<uint16_t>() & 0x1ff);
        auto bytes = take_buffer();
        machine_->bus.write_config(offset, bytes);
        machine_->bus.read_config(offset, bytes);
    }
    void access_bar() {
        VirtioPciTransport& to =
            take_slot() % 2 == 1 ? machine_->transport : machine_->rng_transport;
        auto place = input_.take<uint16_t>();
        // Mostly the first bytes of a part: there the registers are.
        uint32_t offset = (place >> 12 & 7) << 12 | (place & 0x8000 ? place & 0xfff : place & 0x3f);
        access(GuestAddress(to.bar_address().value() + offset));
    }
    void access_address() { access(GuestAddress(input_.take<uint64_t>())); }
    void access(GuestAddress address) {
        auto bytes = take_buffer();
        (void)machine_->bus.write_mmio(address, bytes);
        (void)machine_->bus.read_mmio(address, bytes);
    }
    void write_memory() {
        GuestAddress address(input_.take<uint16_t>() * 2ull);
        (void)memory().write_bytes(address, input_.take_bytes(input_.take<uint8_t>()));
    }

    // The rings of queue `index` where start() puts them.
    static QueueState rings(uint16_t index, uint16_t size) {
        uint64_t base = 0x4000u * index;
        return {.size = size,
                .ready = true,
                .descriptor_table = base,
                .available_ring = base + 0x1000,
                .used_ring = base + 0x2000};
    }
    void publish() {
        auto index = static_cast<uint16_t>(input_.take<uint8_t>() % 3);
        QueueState place = rings(index, 8);
        auto slot = static_cast<uint8_t>(input_.take<uint8_t>() % 8);
        VirtqDescriptor descriptor = {input_.take<uint16_t>() * 4ull, input_.take<uint16_t>(),
                                      static_cast<uint16_t>(input_.take<uint8_t>() & 7), 1};
        (void)memory().write(GuestAddress(place.descriptor_table + 16u * slot), descriptor);
        auto next = *memory().read<uint16_t>(GuestAddress(place.available_ring + 2));
        (void)memory().write(GuestAddress(place.available_ring + 4 + 2u * (next % 8)),
                             uint16_t{slot});
        (void)memory().write(GuestAddress(place.available_ring + 2),
                             static_cast<uint16_t>(next + 1));
    }
    bool start_driver(uint32_t slot) {
        test::TransportDriver driver(machine_->bus, slot);
        std::vector<QueueState> queues;
        if (slot == kHoldingSlot)
            queues = {rings(0, 8), rings(1, 8)};
        else
            queues = {rings(2, 8)};
        return driver.start(queues, ~uint64_t{input_.take<uint8_t>()} << 28);
    }
    void start() { (void)start_driver(take_slot() % 2 == 1 ? kHoldingSlot : kRngSlot); }
    void ring() {
        for (auto [address, eventfd] : std::map(machine_->doorbells.listening))
            (void)machine_->doorbells.ring(address);
        turn();
    }

    // Whatever went before: put right what a driver can put right, and the device works.
    void reset_and_start() {
        machine_->transport.write_bar(VIRTIO_PCI_COMMON_STATUS, test::bytes_of(uint8_t{0}));
        while (!machine_->device.held.empty())
            machine_->device.complete();
        test::TransportDriver driver(machine_->bus, kHoldingSlot);
        driver.config_write<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY);
        // At an address of its own: the other device's BAR may be anywhere.
        uint32_t other = static_cast<uint32_t>(machine_->rng_transport.bar_address().value());
        driver.config_write<uint32_t>(PCI_BASE_ADDRESS_0, other ^ 0x10000000);
        for (uint16_t index = 0; index < 2; index++) {
            uint64_t ring = rings(index, 8).available_ring;
            (void)memory().write(GuestAddress(ring), uint32_t{0});
        }
        require(driver.start(std::vector{rings(0, 8), rings(1, 8)}));
        require(machine_->device.active());
    }

    void save_and_restore() {
        machine_->quiesce();
        auto state = machine_->transport.save();
        auto rng_state = machine_->rng_transport.save();
        auto next = std::make_unique<Machine>();
        require(next->transport.restore(state).has_value());
        require(next->rng_transport.restore(rng_state).has_value());
        require(next->transport.save() == state);
        require(next->rng_transport.save() == rng_state);
        machine_ = std::move(next);
        resume();
    }
    void resume() {
        machine_->device.resume();
        machine_->rng.resume();
    }
    // A saved state with anything put into some of its fields.
    void restore_anything() {
        machine_->quiesce();
        VirtioPciState state = machine_->transport.save();
        auto changes = input_.take<uint8_t>() % 8;
        for (int count = 0; count < changes; count++)
            change(state);
        auto next = std::make_unique<Machine>();
        auto restored = next->transport.restore(state);
        if (!restored) {
            require(restored.error().code == Code::corrupt);
            return resume();  // the old one goes on
        }
        require(next->transport.save() == state);
        machine_ = std::move(next);
        resume();
    }
    void change(VirtioPciState& state) {
        auto which = input_.take<uint8_t>();
        auto value = input_.take<uint64_t>();
        QueueState& queue = state.queues[value % state.queues.size()];
        switch (which % 16) {
            case 0:
                state.config[value % state.config.size()] = static_cast<uint8_t>(value >> 8);
                return;
            case 1:
                state.config.resize(value % 512);
                state.config.resize(256);
                return;
            case 2:
                state.msix.table[value % state.msix.table.size()] = static_cast<uint32_t>(value);
                return;
            case 3:
                state.msix.pending[value % state.msix.pending.size()].flip();
                return;
            case 4:
                state.device_status = static_cast<uint8_t>(value);
                return;
            case 5:
                state.isr = static_cast<uint8_t>(value);
                return;
            case 6:
                state.config_vector = static_cast<uint16_t>(value);
                return;
            case 7:
                state.driver_features = value;
                return;
            case 8:
                state.queue_select = static_cast<uint16_t>(value);
                return;
            case 9:
                state.queue_vectors[value % state.queue_vectors.size()] =
                    static_cast<uint16_t>(value >> 8);
                return;
            case 10:
                queue.size = static_cast<uint16_t>(value >> 8);
                return;
            case 11:
                queue.ready = !queue.ready;
                return;
            case 12:
                queue.descriptor_table = value;
                return;
            case 13:
                queue.used_ring = value;
                return;
            case 14:
                queue.next_available = queue.next_used = static_cast<uint16_t>(value >> 8);
                return;
            default:
                queue.next_available = static_cast<uint16_t>(value >> 8);
                return;
        }
    }

    fuzz::Input& input_;
    std::unique_ptr<Machine> machine_ = std::make_unique<Machine>();
    std::byte buffer_[8] = {};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Input input(data, size);
    TransportFuzzer fuzzer(input);
    for (int steps = 0; !input.empty() && steps < 300; steps++)
        fuzzer.step();
    return 0;
}
