// Machine: made again from a snapshot. THE RESTORE PATH, in three steps that may lie far apart:
// load_snapshot() (snapshot_files.cc) once for all clones, prepare_clone() without KVM, so that a
// worker can wait in it for its request, and start_clone() (machine_start.cc), whose load_vm()
// is what a clone costs.

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include "devices/block/layered_disk.h"
#include "devices/block/raw_disk.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/vmm/machine.h"

namespace spore {

namespace {

// A disk's top that no one asked to keep: a file without a name.
Result<DiskFile> unnamed_top() {
    static unsigned count = 0;
    std::string path =
        (std::filesystem::temp_directory_path() /
         ("spore-disk-" + std::to_string(::getpid()) + "-" + std::to_string(count++)))
            .string();
    auto file = TRY(make_disk_file(path));
    ::unlink(path.c_str());
    return file;
}

// A clone's own top of a layered disk must be new.
Result<LayeredDisk::Layer> empty_top(DiskFile file, uint64_t bytes) {
    if (!file.writable)
        return fail(Code::invalid_argument, "disk '" + file.path + "': must be written to");
    if (file.bytes == 0)
        TRY(size_disk_file(file, bytes));
    if (::lseek(file.fd.get(), 0, SEEK_DATA) >= 0)
        return fail(Code::invalid_argument,
                    "disk: map_path: is empty, but '" + file.path + "' has data");
    return LayeredDisk::Layer{std::move(file), TRY(LayerMap::create(bytes))};
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::prepare_clone(EventLoop& loop, Kvm kvm,
                                                        LoadedSnapshot snapshot, CloneFiles files,
                                                        bool interactive_console,
                                                        StageTimer& stages, Serial::Sink console,
                                                        OnEnd on_end) {
    MachineState& state = snapshot.state;
    MachineConfig config;
    config.cpus = static_cast<uint32_t>(state.vcpus.size());
    config.cpu_template = state.cpu_template;
    config.vsock_path = files.vsock_path;
    config.interactive_console = interactive_console;
    config.disk_rate = files.disk_rate;
    config.network_rate = files.network_rate;
    config.memory_bytes = snapshot.memory.size();
    std::unique_ptr<Machine> machine(
        new Machine(loop, config, std::move(console), std::move(on_end)));
    machine->stages_ = &stages;
    machine->made_files_ = std::move(files.made);
    machine->kvm_ = std::move(kvm);
    machine->memory_ = std::move(snapshot.memory);
    machine->working_set_ = std::move(snapshot.working_set);
    TRY(machine->rebuild_devices(state, snapshot.disks, files));
    TRY(machine->serial_.restore(state.serial));
    machine->saved_cpus_ = std::make_unique<SavedCpus>(state.clock, std::move(state.vcpus));
    machine->go_ = std::move(files.go);
    machine->state_ = RunState::prepared;
    stages.mark("prepare");
    return machine;
}

spore::Status Machine::rebuild_devices(const MachineState& state,
                                       std::vector<LoadedSnapshot::Disk>& layers,
                                       CloneFiles& files) {
    size_t next_layers = 0;
    for (const DeviceState& device : state.devices) {
        if (device.slot != devices_.size() + 1)
            return fail(Code::corrupt, "snapshot state: a device in PCI slot " +
                                           std::to_string(device.slot) + ", expected " +
                                           std::to_string(devices_.size() + 1));
        if (auto* disk = std::get_if<DiskState>(&device.kind)) {
            TRY(rebuild_disk(*disk, disk->layered ? &layers[next_layers++] : nullptr, files));
        } else if (auto* network = std::get_if<NetworkState>(&device.kind)) {
            TRY(rebuild_network(*network, files));
        } else if (auto* vsock = std::get_if<VsockState>(&device.kind)) {
            TRY(rebuild_vsock(*vsock, files));
        } else {
            TRY(plug(std::make_unique<VirtioRng>(memory_, loop_)));
        }
        auto restored = transports_.back()->restore(device.transport);
        if (!restored)
            return std::unexpected(std::move(restored).error().within(devices_.back()->name()));
    }
    if (disks_.size() < files.disks.size())
        return fail(Code::invalid_argument, "disk: " + std::to_string(files.disks.size()) +
                                                " given, the snapshot has " +
                                                std::to_string(disks_.size()));
    if (networks_.size() < files.networks.size())
        return fail(Code::invalid_argument, "net: " + std::to_string(files.networks.size()) +
                                                " given, the snapshot has " +
                                                std::to_string(networks_.size()));
    return {};
}

spore::Status Machine::rebuild_disk(const DiskState& state, LoadedSnapshot::Disk* layers,
                                    CloneFiles& files) {
    size_t number = disks_.size();
    bool given = number < files.disks.size();
    std::string name = "block" + std::to_string(number);
    std::unique_ptr<Disk> disk;
    std::string path;
    DiskState kept = state;
    if (!given && is_jailed())
        return fail(Code::invalid_argument, "disk " + std::to_string(number) +
                                                ": a jailed clone's must be given by --disk");
    if (layers != nullptr) {
        DiskFile top = given ? std::move(files.disks[number]) : TRY(unnamed_top());
        path = top.path;
        kept.layers = std::move(layers->paths);
        LayeredDisk::Parts parts;
        parts.base = std::move(layers->base);
        parts.layers = std::move(layers->layers);
        parts.bytes = state.size_bytes;
        parts.top = TRY(empty_top(std::move(top), state.size_bytes));
        disk = TRY(LayeredDisk::create(loop_, std::move(parts)));
    } else {
        if (!given && !state.read_only)
            return fail(Code::invalid_argument,
                        "disk " + std::to_string(number) + " ('" + state.path +
                            "'): is written to and no clone's own; give one with --disk");
        DiskFile file = given ? std::move(files.disks[number])
                              : TRY(open_disk_file(state.path, DiskAccess::read_only));
        kept.path = path = file.path;
        disk = TRY(RawDisk::create(loop_, std::move(file)));
    }
    if (disk->capacity() != state.size_bytes)
        return fail(Code::invalid_argument, "disk " + std::to_string(number) + " '" + path +
                                                "': has " + std::to_string(disk->capacity()) +
                                                " bytes, the guest knows " +
                                                std::to_string(state.size_bytes));
    auto device =
        std::make_unique<VirtioBlock>(memory_, loop_, std::move(disk), VirtioBlock::Options{name});
    device->rate().change(config_.disk_rate);
    disks_.push_back({std::move(kept), path, device.get()});
    return plug(std::move(device));
}

spore::Status Machine::rebuild_network(const NetworkState& network, CloneFiles& files) {
    size_t number = networks_.size();
    if (number >= files.networks.size())
        return fail(Code::invalid_argument,
                    "net " + std::to_string(number) + ": the snapshot has one, --net is needed");
    NetworkConfig config = files.networks[number];
    char mac[18];
    std::snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", network.mac[0], network.mac[1],
                  network.mac[2], network.mac[3], network.mac[4], network.mac[5]);
    if (config.mac.empty())
        config.mac = mac;  // what the guest has configured
    return add_network(config, std::move(files.network_files[number]));
}

spore::Status Machine::rebuild_vsock(const VsockState& state, CloneFiles& files) {
    if (config_.vsock_path.empty() && !files.vsock)
        return fail(Code::invalid_argument, "vsock: the snapshot has one, --vsock PATH is needed");
    TRY(add_vsock(static_cast<uint64_t>(state.guest_cid), std::move(files.vsock)));
    TRY(vsock_->restore(state));
    announce_reset_ = !state.carried;
    return {};
}

}  // namespace spore
