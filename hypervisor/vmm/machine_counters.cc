// Machine: what its devices have done and may do.

#include "hypervisor/vmm/machine.h"

namespace spore {

namespace {

using Counters = Machine::Counters;

void add_rate(Counters& counters, const std::string& name, const RateLimiter& rate) {
    RateLimits limits = rate.limits();
    counters.emplace_back(name + ".throttled_ns", rate.throttled_ns());
    counters.emplace_back(name + ".bytes_max", limits.bytes.per_second);
    counters.emplace_back(name + ".operations_max", limits.operations.per_second);
}

}  // namespace

void Machine::add_device_counters(Status& status) {
    Counters& counters = status.counters;
    for (auto& device : devices_) {
        std::string name = device->name();
        counters.emplace_back(name + ".guest_errors", device->counters().guest_errors);
        counters.emplace_back(name + ".failures", device->counters().failures);
        counters.emplace_back(name + ".host_errors", device->counters().host_errors);
    }
    for (const DiskDevice& disk : disks_) {
        std::string name = disk.device->name();
        const BlockStatistics& done = disk.device->statistics();
        counters.emplace_back(name + ".reads", done.reads);
        counters.emplace_back(name + ".read_bytes", done.read_bytes);
        counters.emplace_back(name + ".writes", done.writes);
        counters.emplace_back(name + ".written_bytes", done.written_bytes);
        counters.emplace_back(name + ".flushes", done.flushes);
        counters.emplace_back(name + ".discards", done.discards);
        add_rate(counters, name, disk.device->rate());
    }
    for (VirtioNet* network : networks_) {
        std::string name = network->name();
        const NetCounters& done = network->net_counters();
        counters.emplace_back(name + ".rx_frames", done.rx_frames);
        counters.emplace_back(name + ".rx_bytes", done.rx_bytes);
        counters.emplace_back(name + ".rx_dropped", done.rx_dropped);
        counters.emplace_back(name + ".tx_frames", done.tx_frames);
        counters.emplace_back(name + ".tx_bytes", done.tx_bytes);
        counters.emplace_back(name + ".tx_dropped", done.tx_dropped);
        add_rate(counters, name + ".rx", network->rx_rate());
        add_rate(counters, name + ".tx", network->tx_rate());
    }
    if (vsock_ != nullptr) {
        counters.emplace_back("vsock.connections", vsock_->connection_count());
        counters.emplace_back("vsock.connections_max", limits::kVsockConnectionsMax);
        counters.emplace_back("vsock.buffered_bytes", vsock_->buffered_bytes());
        counters.emplace_back("vsock.refused", vsock_->vsock_counters().refused);
    }
    if (count_console_)
        count_console_(counters);
}

void Machine::on_device_failure(const VirtioDevice::OnFailure& call) {
    for (auto& device : devices_)
        device->on_failure(call);
}

// What can fail comes first: all of them or none.
spore::Status Machine::control_limits(const Limits& limits) {
    if (limits.disk_bytes != 0) {
        if (disks_.empty())
            return fail(Code::invalid_argument, "disk: this machine has none");
        TRY(disks_.front().device->grow(limits.disk_bytes));
    }
    for (const DiskDevice& disk : disks_) {
        if (limits.disk)
            disk.device->rate().change(*limits.disk);
    }
    for (VirtioNet* network : networks_) {
        if (limits.network_rx)
            network->rx_rate().change(*limits.network_rx);
        if (limits.network_tx)
            network->tx_rate().change(*limits.network_tx);
    }
    return {};
}

}  // namespace spore
