#pragma once

// A transport on a bus, with the machine's side faked and a driver that knows nothing of it.

#include <gtest/gtest.h>

#include "devices/virtio/pci_transport.h"
#include "tests/unit/support/transport_driver.h"

namespace spore::test {

// One machine with one device. `Device` is made from guest memory and the loop.
template <typename Device>
struct TransportBed {
    static constexpr uint64_t kBarAddress = 0xe0000000;

    TransportBed(EventLoop& event_loop, const GuestMemory& memory)
        : loop(event_loop), device(memory, event_loop) {
        transport.assign_bar(GuestAddress(kBarAddress));
        (void)bus.attach(1, transport);
    }
    ~TransportBed() { loop.drain(); }

    // Serves the loop until `done()`.
    bool until(const std::function<bool()>& done) {
        return loop.run_until(done, std::chrono::seconds(20));
    }
    VirtioPciState quiesce_and_save() {
        bool quiet = false;
        device.quiesce([&] { quiet = true; });
        EXPECT_TRUE(until([&] { return quiet; }));
        return transport.save();
    }

    EventLoop& loop;
    RecordingMsiSink msi;
    FakeDoorbells doorbells;
    Device device;
    VirtioPciTransport transport{device, loop, msi, doorbells};
    PciBus bus;
    TransportDriver driver{bus, 1};
};

// The contract that every device keeps: what is restored saves as it was saved. `bed` is left
// quiesced; returns the restored machine, quiesced too.
template <typename Device>
std::unique_ptr<TransportBed<Device>> expect_same_after_restore(TransportBed<Device>& bed,
                                                                const GuestMemory& memory) {
    VirtioPciState saved = bed.quiesce_and_save();
    auto restored = std::make_unique<TransportBed<Device>>(bed.loop, memory);
    auto status = restored->transport.restore(saved);
    EXPECT_TRUE(status.has_value()) << status.error().message;
    EXPECT_TRUE(restored->transport.save() == saved);
    EXPECT_FALSE(restored->device.active()) << "it waits for resume()";
    restored->driver.discover();
    return restored;
}

}  // namespace spore::test
