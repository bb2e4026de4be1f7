// VirtioPciTransport's state: saved, and restored as from a hostile file.

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>

#include <cassert>
#include <string>

#include "devices/virtio/pci_transport.h"

namespace spore {

namespace {

constexpr uint8_t kStatusBits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
                                VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
constexpr uint8_t kIsrBits = 3;

std::unexpected<Error> corrupt_transport(const std::string& field, uint64_t value) {
    return fail(Code::corrupt, field + ": invalid value " + std::to_string(value));
}

}  // namespace

VirtioPciState VirtioPciTransport::save() const {
    assert(!resetting_ && !device_.active() && "quiesce a device before it is saved");
    VirtioPciState state;
    auto config = config_.bytes();
    state.config.resize(config.size());
    std::memcpy(state.config.data(), config.data(), config.size());
    state.msix = msix_.state();
    state.device_status = status_;
    state.isr = isr_;
    state.config_generation = config_generation_;
    state.device_feature_select = device_feature_select_;
    state.driver_feature_select = driver_feature_select_;
    state.driver_features = driver_features_;
    state.config_vector = config_vector_;
    state.queue_select = queue_select_;
    for (size_t index = 0; index < queues_.size(); index++) {
        const QueueRegisters& registers = queues_[index];
        bool live = running_ && registers.state.ready;
        state.queues.push_back(live ? device_.queues()[index].state() : registers.state);
        state.queue_vectors.push_back(registers.vector);
    }
    return state;
}

Status VirtioPciTransport::restore(const VirtioPciState& state) {
    assert(status_ == 0 && !resetting_ && !running_ && "restore onto a fresh transport");
    auto restored = [&]() -> Status {
        TRY(check(state));
        TRY(config_.restore(state.config));
        TRY(msix_.restore(state.msix, config_.get<uint16_t>(msix_capability_ + PCI_MSIX_FLAGS)));
        return restore_device(state);
    }();
    if (!restored)
        return std::unexpected(std::move(restored).error().within(device_.name()));
    return {};
}

Status VirtioPciTransport::check(const VirtioPciState& state) const {
    // No DRIVER_OK without features, no failure of what was never started.
    auto has = [&](uint8_t bit) { return (state.device_status & bit) != 0; };
    if ((state.device_status & ~kStatusBits) != 0 ||
        (has(VIRTIO_CONFIG_S_DRIVER_OK) && !has(VIRTIO_CONFIG_S_FEATURES_OK)) ||
        (has(VIRTIO_CONFIG_S_NEEDS_RESET) && !has(VIRTIO_CONFIG_S_DRIVER_OK)))
        return corrupt_transport("device_status", state.device_status);
    if ((state.isr & ~kIsrBits) != 0)
        return corrupt_transport("isr", state.isr);
    if (state.config_vector != valid_vector(state.config_vector))
        return corrupt_transport("config_vector", state.config_vector);
    return check_queues(state);
}

Status VirtioPciTransport::check_queues(const VirtioPciState& state) const {
    if (state.queues.size() != queues_.size())
        return corrupt_transport("count of queues", state.queues.size());
    if (state.queue_vectors.size() != queues_.size())
        return corrupt_transport("count of queue vectors", state.queue_vectors.size());
    bool started = (state.device_status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
    for (size_t index = 0; index < queues_.size(); index++) {
        const QueueState& queue = state.queues[index];
        std::string name = "queue " + std::to_string(index);
        if (state.queue_vectors[index] != valid_vector(state.queue_vectors[index]))
            return corrupt_transport(name + " vector", state.queue_vectors[index]);
        // Rings move only under a device that was started with them.
        if (!(started && queue.ready) &&
            (queue.next_available | queue.next_used | queue.signalled_used) != 0)
            return corrupt_transport(name + " index while not running", queue.next_available);
    }
    return {};
}

Status VirtioPciTransport::restore_device(const VirtioPciState& state) {
    status_ = state.device_status;
    isr_ = state.isr;
    config_generation_ = state.config_generation;
    device_feature_select_ = state.device_feature_select;
    driver_feature_select_ = state.driver_feature_select;
    driver_features_ = state.driver_features;
    config_vector_ = state.config_vector;
    queue_select_ = state.queue_select;
    for (size_t index = 0; index < queues_.size(); index++)
        queues_[index] = {state.queues[index], state.queue_vectors[index]};

    if (!has_status(VIRTIO_CONFIG_S_FEATURES_OK))
        return {};
    if (!has_status(VIRTIO_CONFIG_S_DRIVER_OK) || has_status(VIRTIO_CONFIG_S_NEEDS_RESET)) {
        // Not started yet, or failed: the device does nothing before the driver's next word.
        if (!device_.set_features(driver_features_))
            return corrupt_transport("driver_features", driver_features_);
        return {};
    }
    std::vector<QueueState> queues = state.queues;
    for (size_t index = 0; index < queues.size(); index++) {
        if (!queues[index].ready) {  // whatever the driver wrote to it has no effect
            queues[index] = {};
            queues[index].size = device_.queues()[index].size_max();
        }
    }
    if (auto restored = device_.restore(driver_features_, queues); !restored)
        return fail(Code::corrupt, std::move(restored).error().message);
    running_ = true;
    update_doorbell();
    return {};
}

}  // namespace spore
