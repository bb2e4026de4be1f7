// Machine: written to a directory while it is paused.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "devices/block/layered_disk.h"
#include "hypervisor/base/sparse_copy.h"
#include "hypervisor/kvm/cpuid.h"
#include "hypervisor/snapshot/memory_image.h"
#include "hypervisor/snapshot/state_file.h"
#include "hypervisor/vmm/machine.h"

namespace spore {

namespace {

// As a snapshot in `directory` names the file at `path`: what is beside its own files has no
// directory, so that the whole can be moved (schema/snapshot.fbs, Layer).
std::string name_in(const std::string& directory, const std::string& path) {
    auto whole = std::filesystem::absolute(path).lexically_normal();
    auto here = std::filesystem::absolute(directory + "/").lexically_normal().parent_path();
    return whole.parent_path() == here ? whole.filename().string() : whole.string();
}

DiskState relative_to(const std::string& directory, DiskState disk) {
    for (DiskState::Layer& layer : disk.layers) {
        layer.path = name_in(directory, layer.path);
        if (!layer.map.empty())
            layer.map = name_in(directory, layer.map);
    }
    return disk;
}

Status sync_directory(const std::string& path) {
    UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || ::fsync(directory.get()) != 0)
        return fail_errno(path + ": fsync");
    return {};
}

}  // namespace

// On any error what was written is removed again: half a snapshot is none.
spore::Status Machine::write_snapshot(const std::string& directory,
                                      std::optional<VsockPorts> carry) {
    std::error_code error;
    for (const char* name : {kStateFile, kMemoryFile}) {
        if (std::filesystem::exists(directory + "/" + name, error))
            return fail(Code::already_exists,
                        "snapshot directory '" + directory + "': holds a snapshot already");
    }
    auto write = [&]() -> spore::Status {
        if (is_waiting() && !begun_)
            TRY(rewind_time());
        auto state = TRY(save_state(carry));
        TRY(save_disks(directory));
        state.memory.image = TRY(write_memory_image(memory_, directory + "/" + kMemoryFile));
        for (DeviceState& device : state.devices) {
            if (auto* disk = std::get_if<DiskState>(&device.kind))
                *disk = relative_to(directory, std::move(*disk));
        }
        TRY(write_state_file(directory + "/" + kStateFile, encode_state(state)));
        return sync_directory(directory);
    };
    auto written = write();
    if (!written) {
        std::filesystem::remove(directory + "/" + kStateFile, error);
        std::filesystem::remove(directory + "/" + kMemoryFile, error);
        for (size_t disk = 0; disk < disks_.size(); disk++) {
            std::filesystem::remove(directory + "/" + disk_layer_file(disk), error);
            std::filesystem::remove(directory + "/" + disk_map_file(disk), error);
        }
    }
    return written;
}

Result<MachineState> Machine::save_state(std::optional<VsockPorts> carry) {
    MachineState state;
    state.created_unix_ns =
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                  std::chrono::system_clock::now().time_since_epoch())
                                  .count());
    state.spore_version = SPORE_VERSION;
    state.cpu_vendor = cpu_vendor(TRY(kvm_->supported_cpuid()));
    state.cpu_template = config_.cpu_template;
    state.clock = TRY(vm_->clock());
    auto msr_indices = TRY(kvm_->msr_indices());
    for (Vcpu& vcpu : vcpus_)
        state.vcpus.push_back(TRY(vcpu.save(msr_indices)));
    for (const MemoryRegion& region : memory_.regions())
        state.memory.extents.push_back({region.start, region.size()});
    size_t disk = 0, network = 0;
    for (size_t index = 0; index < devices_.size(); index++) {
        DeviceState device;
        device.slot = static_cast<uint8_t>(index + 1);
        device.transport = transports_[index]->save();
        VirtioDevice* here = devices_[index].get();
        if (disk < disks_.size() && here == disks_[disk].device) {
            device.kind = disks_[disk++].state;
        } else if (network < networks_.size() && here == networks_[network]) {
            device.kind = NetworkState{networks_[network++]->mac()};
        } else if (here == vsock_) {
            device.kind = TRY(vsock_->save(carry));
        } else {
            device.kind = RngState{};
        }
        state.devices.push_back(std::move(device));
    }
    if (carry && vsock_ == nullptr)
        return fail(Code::not_found, "vsock: this machine has none to carry a connection of");
    state.serial = serial_.save();
    return state;
}

// Nothing is in flight: the top's file and its map belong together. The VM keeps writing to its own
// top afterwards, so the snapshot gets a copy.
spore::Status Machine::save_disks(const std::string& directory) {
    for (size_t number = 0; number < disks_.size(); number++) {
        const DiskDevice& disk = disks_[number];
        if (!disk.state.layered)
            continue;
        auto& layered = static_cast<LayeredDisk&>(disk.device->disk());
        TRY(copy_sparse(disk.top, directory + "/" + disk_layer_file(number)));
        TRY(layered.save_map(directory + "/" + disk_map_file(number)));
    }
    return {};
}

}  // namespace spore
