// Machine: made again from a snapshot.

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>

#include "hypervisor/kvm/cpuid.h"
#include "hypervisor/snapshot/memory_image.h"
#include "hypervisor/snapshot/state_file.h"
#include "hypervisor/vmm/machine.h"

namespace spore {

namespace {

// A name for a file that no one asked to keep: made, opened and unlinked by whoever opens the disk.
std::string unnamed_top() {
    static unsigned count = 0;
    return (std::filesystem::temp_directory_path() /
            ("spore-disk-" + std::to_string(::getpid()) + "-" + std::to_string(count++)))
        .string();
}

// The file descriptor may close once the memory is mapped; the mapping keeps the file.
Result<GuestMemory> map_memory(const std::string& directory, const MemoryState& memory) {
    auto image = TRY(open_memory_image(directory + "/" + kMemoryFile, memory.image.file_bytes));
    return GuestMemory::map_private(image.get(), memory.extents);
}

Status check_cpu(const MachineState& state, const Kvm& kvm) {
    auto supported = TRY(kvm.supported_cpuid());
    std::string vendor = cpu_vendor(supported);
    if (vendor != state.cpu_vendor)
        return fail(Code::version_mismatch, "snapshot: made on a processor by " + state.cpu_vendor +
                                                ", this one is by " + vendor);
    for (const VcpuState& vcpu : state.vcpus)
        TRY(check_cpuid_runs(vcpu.cpuid, supported));
    return {};
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::restore(EventLoop& loop, const std::string& directory,
                                                  const MachineConfig& overrides,
                                                  Serial::Sink console, OnEnd on_end) {
    auto payload = TRY(read_state_file(directory + "/" + kStateFile));
    auto state = TRY(decode_state(payload));
    MachineConfig config;
    config.cpus = static_cast<uint32_t>(state.vcpus.size());
    config.cpu_template = state.cpu_template;
    config.vsock_path = overrides.vsock_path;
    config.interactive_console = overrides.interactive_console;
    std::unique_ptr<Machine> machine(
        new Machine(loop, config, std::move(console), std::move(on_end)));
    machine->memory_ = TRY(map_memory(directory, state.memory));
    machine->config_.memory_bytes = machine->memory_.size();
    TRY(machine->build_vm());
    TRY(check_cpu(state, *machine->kvm_));
    TRY(machine->rebuild_devices(state, directory, overrides));
    TRY(machine->load_state(state));
    timespec now = {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    machine->built_monotonic_ns_ =
        static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
    return machine;
}

spore::Status Machine::rebuild_devices(const MachineState& state, const std::string& directory,
                                       const MachineConfig& overrides) {
    for (const DeviceState& device : state.devices) {
        if (device.slot != devices_.size() + 1)
            return fail(Code::corrupt, "snapshot state: a device in PCI slot " +
                                           std::to_string(device.slot) + ", expected " +
                                           std::to_string(devices_.size() + 1));
        if (auto* disk = std::get_if<DiskState>(&device.kind)) {
            TRY(rebuild_disk(*disk, directory, overrides));
        } else if (auto* network = std::get_if<NetworkState>(&device.kind)) {
            TRY(rebuild_network(*network, overrides));
        } else if (auto* vsock = std::get_if<VsockDeviceState>(&device.kind)) {
            if (config_.vsock_path.empty())
                return fail(Code::invalid_argument,
                            "vsock: the snapshot has one, --vsock PATH is needed");
            TRY(add_vsock(vsock->guest_cid));
            VsockState saved;
            saved.guest_cid = ContextId(vsock->guest_cid);
            saved.next_host_port = vsock->next_host_port;
            TRY(vsock_->restore(saved));
            announce_reset_ = true;
        } else {
            TRY(plug(std::make_unique<VirtioRng>(memory_, loop_)));
        }
        auto restored = transports_.back()->restore(device.transport);
        if (!restored)
            return std::unexpected(std::move(restored).error().within(devices_.back()->name()));
    }
    if (disks_.size() < overrides.disks.size())
        return fail(Code::invalid_argument, "disk: " + std::to_string(overrides.disks.size()) +
                                                " given, the snapshot has " +
                                                std::to_string(disks_.size()));
    if (networks_.size() < overrides.networks.size())
        return fail(Code::invalid_argument, "net: " + std::to_string(overrides.networks.size()) +
                                                " given, the snapshot has " +
                                                std::to_string(networks_.size()));
    return {};
}

spore::Status Machine::rebuild_disk(const DiskState& disk, const std::string& directory,
                                    const MachineConfig& overrides) {
    size_t number = disks_.size();
    bool given = number < overrides.disks.size();
    DiskConfig config;
    config.read_only = disk.read_only;
    if (!disk.layered) {
        config.path = given ? overrides.disks[number].path : disk.path;
        if (!disk.read_only && !given)
            return fail(Code::invalid_argument,
                        "disk " + std::to_string(number) + " ('" + disk.path +
                            "'): is written to and no clone's own; give one with --disk");
        TRY(add_disk(config));
    } else {
        config.path = given ? overrides.disks[number].path : unnamed_top();
        config.size_bytes = disk.size_bytes;
        for (const DiskState::Layer& layer : disk.layers)
            config.layers.push_back({layer.path, layer.map});
        config.layers.push_back(
            {directory + "/" + disk_layer_file(number), directory + "/" + disk_map_file(number)});
        TRY(add_disk(config));
        if (!given)
            ::unlink(config.path.c_str());
    }
    uint64_t now = disks_.back().device->disk().capacity();
    if (now != disk.size_bytes)
        return fail(Code::invalid_argument, "disk " + std::to_string(number) + " '" + config.path +
                                                "': has " + std::to_string(now) +
                                                " bytes, the guest knows " +
                                                std::to_string(disk.size_bytes));
    return {};
}

spore::Status Machine::rebuild_network(const NetworkState& network,
                                       const MachineConfig& overrides) {
    size_t number = networks_.size();
    if (number >= overrides.networks.size())
        return fail(Code::invalid_argument,
                    "net " + std::to_string(number) + ": the snapshot has one, --net is needed");
    NetworkConfig config = overrides.networks[number];
    char mac[18];
    std::snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", network.mac[0], network.mac[1],
                  network.mac[2], network.mac[3], network.mac[4], network.mac[5]);
    if (config.mac.empty())
        config.mac = mac;  // what the guest has configured
    return add_network(config);
}

// The clock before the vCPUs, whose kvmclock MSRs point at it. Every vCPU exists before the first
// is loaded: interrupts between them need somewhere to go.
spore::Status Machine::load_state(const MachineState& state) {
    for (uint32_t index = 0; index < config_.cpus; index++)
        vcpus_.push_back(TRY(Vcpu::create(*kvm_, *vm_, index)));
    TRY(vm_->set_clock(state.clock));
    TRY(load_vcpus(vcpus_, state.vcpus));
    for (Vcpu& vcpu : vcpus_) {
        threads_.push_back(std::make_unique<VcpuThread>(
            vcpu, *this, [this](const VmExit& exit) { loop_.post([this, exit] { end(exit); }); }));
    }
    return serial_.restore(state.serial);
}

}  // namespace spore
