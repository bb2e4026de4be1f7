#pragma once

// What every virtio device has: features, queues, a life cycle. A transport drives it.

#include <linux/virtio_config.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/queue.h"
#include "hypervisor/io/event_loop.h"
#include "hypervisor/memory/guest_memory.h"

namespace spore {

constexpr uint64_t feature_bit(unsigned feature) {
    return uint64_t{1} << feature;
}

// How a device reaches its driver; the transport implements it. Loop thread only.
class InterruptLine {
  public:
    virtual ~InterruptLine() = default;
    virtual void queue_used(uint16_t queue) = 0;  // the queue's MSI-X vector
    virtual void config_changed() = 0;            // the configuration vector
    virtual void device_failed() = 0;  // sets DEVICE_NEEDS_RESET and tells (virtio 1.2 §2.1.2)
};

// What went wrong so far; read by `spore stats`. Never reset while the machine lives.
struct DeviceCounters {
    uint64_t guest_errors = 0;  // broken queues and malformed requests
    uint64_t failures = 0;      // of those, the ones that broke the device until a reset
    uint64_t host_errors = 0;   // the host's file or socket failed
};

// Loop thread only, the constructor and destructor included.
//
// Life cycle, as the transport calls it: set_features(), configured queues, activate() at
// DRIVER_OK; then kick() whenever the doorbell rang, until reset(). quiesce() leaves a running
// device without anything in flight, for a snapshot, a pause or the end; resume() lets it go on
// from there.
class VirtioDevice {
  public:
    using Done = std::move_only_function<void()>;

    VirtioDevice(uint16_t device_id, const GuestMemory& memory, EventLoop& loop,
                 std::span<const uint16_t> queue_sizes);
    virtual ~VirtioDevice();
    VirtioDevice(const VirtioDevice&) = delete;
    VirtioDevice& operator=(const VirtioDevice&) = delete;

    uint16_t device_id() const { return device_id_; }
    virtual const char* name() const = 0;  // for messages: "block", "net0"
    // All feature bits on offer, VIRTIO_F_VERSION_1 and ring features included.
    uint64_t offered_features() const;
    uint64_t features() const { return features_; }
    bool has_feature(unsigned bit) const { return (features_ >> bit & 1) != 0; }
    // The driver's choice; invalid_argument if it has bits that were not offered or no VERSION_1.
    Status set_features(uint64_t features);

    std::vector<Queue>& queues() { return queues_; }
    const DeviceCounters& counters() const { return counters_; }
    void attach(InterruptLine* line) { line_ = line; }

    // Device-specific configuration space: reads fill `bytes` (zeros beyond the end), writes to
    // what is read-only are ignored (virtio 1.2 §2.5).
    virtual void read_config(uint32_t offset, std::span<std::byte> bytes) const = 0;
    virtual void write_config(uint32_t offset, std::span<const std::byte> bytes);

    void activate();
    bool active() const { return state_ == State::running; }
    void kick();
    // Ends everything in flight, forgets the driver, then calls `done` (at once if idle).
    void reset(Done done);
    void quiesce(Done done);
    void resume();
    // Takes on what a snapshot held, with the checks that a driver's words get, and is then as
    // after quiesce(): resume() starts it. `queues` has one state for each queue. Errors: corrupt.
    Status restore(uint64_t features, std::span<const QueueState> queues);
    // A guest error: counts it, sets DEVICE_NEEDS_RESET. The device does nothing until reset.
    // `queue`: where it was found, if in one.
    void device_error(const Error& error, std::optional<uint16_t> queue = std::nullopt);
    // Has failures told, in a line for a log: which device, where and why; not all of them
    // (base/log_limits.h).
    using OnFailure = std::function<void(const std::string& line)>;
    void on_failure(OnFailure call) { on_failure_ = std::move(call); }

  protected:
    virtual uint64_t device_features() const = 0;  // the device's own, below bit 24 and from 50
    // Looks at the queues: pop, work, push. Called for a kick and after activate() and resume();
    // never while stopping. Must not leave work behind that nothing will come back to.
    virtual void process() = 0;
    // Starts waiting for the host side (a tap that may become readable), and gives it up: cancels
    // operations whose end may be far away. Requests to disks end by themselves.
    virtual void start_io() {}
    virtual void stop_io() {}
    // Forgets device-specific driver state on reset.
    virtual void on_reset() {}

    // Brackets everything that the ring may complete later: quiesce() and reset() wait for the
    // last.
    void begin_request() { requests_in_flight_++; }
    void end_request();

    // Interrupts the driver if it wants to hear of what was pushed to queue `index`.
    void notify_used(uint16_t index);
    bool failed() const { return failed_; }

    const GuestMemory& memory_;
    EventLoop& loop_;
    DeviceCounters counters_;
    InterruptLine* line_ = nullptr;

  private:
    enum class State { idle, running, stopping, quiesced };
    void stop(State then, Done done);
    void finish_stop();
    void tell_failure(std::optional<uint16_t> queue) const;

    uint16_t device_id_;
    uint64_t features_ = 0;
    std::vector<Queue> queues_;
    State state_ = State::idle;
    State state_after_stop_ = State::idle;
    std::vector<Done> stop_waiters_;
    uint32_t requests_in_flight_ = 0;
    bool failed_ = false;
    Error first_error_;
    OnFailure on_failure_;

  public:
    // What broke the device since the last reset; empty message if nothing.
    const Error& first_error() const { return first_error_; }
};

}  // namespace spore
