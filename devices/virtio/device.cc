#include "devices/virtio/device.h"

#include <cassert>

#include "hypervisor/base/log_limits.h"

namespace spore {

namespace {
constexpr uint64_t kTransportFeatures = (1ull << VIRTIO_F_VERSION_1) |
                                        (1ull << kFeatureIndirectDescriptors) |
                                        (1ull << kFeatureEventIndex);
}  // namespace

VirtioDevice::VirtioDevice(uint16_t device_id, const GuestMemory& memory, EventLoop& loop,
                           std::span<const uint16_t> queue_sizes)
    : memory_(memory), loop_(loop), device_id_(device_id) {
    queues_.reserve(queue_sizes.size());
    for (uint16_t size : queue_sizes)
        queues_.emplace_back(memory, size);
}

VirtioDevice::~VirtioDevice() {
    assert(requests_in_flight_ == 0 && "quiesce or reset a device before it goes");
}

uint64_t VirtioDevice::offered_features() const {
    return device_features() | kTransportFeatures;
}

Status VirtioDevice::set_features(uint64_t features) {
    if ((features & ~offered_features()) != 0)
        return fail(Code::invalid_argument, "virtio: the driver takes features not offered");
    if ((features >> VIRTIO_F_VERSION_1 & 1) == 0)
        return fail(Code::invalid_argument, "virtio: legacy drivers are not served");
    features_ = features;
    return {};
}

void VirtioDevice::write_config(uint32_t, std::span<const std::byte>) {}

void VirtioDevice::activate() {
    assert(state_ == State::idle);
    state_ = State::running;
    start_io();
    kick();
}

void VirtioDevice::kick() {
    if (state_ == State::running && !failed_)
        process();
}

void VirtioDevice::reset(Done done) {
    stop(State::idle, [this, done = std::move(done)]() mutable {
        on_reset();
        for (Queue& queue : queues_)
            queue.reset();
        features_ = 0;
        failed_ = false;
        first_error_ = {};
        done();
    });
}

void VirtioDevice::quiesce(Done done) {
    if (state_ == State::idle) {  // no driver: nothing to stop, nothing to resume
        done();
        return;
    }
    stop(State::quiesced, std::move(done));
}

void VirtioDevice::resume() {
    if (state_ != State::quiesced)
        return;
    state_ = State::running;
    start_io();
    kick();
}

Status VirtioDevice::restore(uint64_t features, std::span<const QueueState> queues) {
    assert(state_ == State::idle);
    if (queues.size() != queues_.size())
        return fail(Code::corrupt, std::string(name()) + ": " + std::to_string(queues.size()) +
                                       " queues in the snapshot, " +
                                       std::to_string(queues_.size()) + " in the device");
    TRY(set_features(features));
    for (size_t index = 0; index < queues.size(); index++)
        TRY(queues_[index].configure(queues[index], has_feature(kFeatureEventIndex)));
    state_ = State::quiesced;
    return {};
}

void VirtioDevice::stop(State then, Done done) {
    stop_waiters_.push_back(std::move(done));
    if (state_ != State::stopping) {
        state_after_stop_ = then;
        bool was_running = state_ == State::running;
        state_ = State::stopping;
        if (was_running)
            stop_io();
    } else if (then == State::idle) {
        state_after_stop_ = State::idle;  // a reset on top of a pause: the reset wins
    }
    if (requests_in_flight_ == 0)
        finish_stop();
}

void VirtioDevice::finish_stop() {
    if (state_ != State::stopping)
        return;
    state_ = state_after_stop_;
    std::vector<Done> waiters = std::move(stop_waiters_);
    stop_waiters_.clear();
    for (Done& waiter : waiters)
        waiter();
}

void VirtioDevice::end_request() {
    assert(requests_in_flight_ > 0);
    if (--requests_in_flight_ == 0 && state_ == State::stopping)
        finish_stop();
}

void VirtioDevice::notify_used(uint16_t index) {
    if (queues_[index].should_interrupt() && line_ != nullptr)
        line_->queue_used(index);
}

void VirtioDevice::device_error(const Error& error, std::optional<uint16_t> queue) {
    counters_.guest_errors++;
    if (failed_)
        return;
    failed_ = true;
    first_error_ = error;
    counters_.failures++;
    if (line_ != nullptr)
        line_->device_failed();
    if (on_failure_ && limits::is_told(counters_.failures))
        tell_failure(queue);
}

void VirtioDevice::tell_failure(std::optional<uint16_t> queue) const {
    on_failure_(std::string(name()) + ": " +
                (queue ? "queue " + std::to_string(*queue) + ": " : std::string()) +
                first_error_.message + "; it needs a reset (failure " +
                std::to_string(counters_.failures) + ")");
}

}  // namespace spore
