// Machine: written to a directory while it is paused.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "devices/block/layered_disk.h"
#include "hypervisor/kvm/cpuid.h"
#include "hypervisor/snapshot/memory_image.h"
#include "hypervisor/snapshot/state_file.h"
#include "hypervisor/vmm/machine.h"

namespace spore {

namespace {

// Bytes [start, end) through a buffer of ours.
Status copy_bytes(int source, int target, off_t start, off_t end, const std::string& name) {
    std::vector<std::byte> buffer(1 * limits::kMiB);
    while (start < end) {
        size_t most = std::min(buffer.size(), static_cast<size_t>(end - start));
        ssize_t got = ::pread(source, buffer.data(), most, start);
        if (got < 0)
            return fail_errno(name + ": reading what is to be copied");
        if (got == 0)
            return fail(Code::internal, name + ": its source shrank while it was copied");
        for (ssize_t done = 0; done < got;) {
            ssize_t written = ::pwrite(target, buffer.data() + done,
                                       static_cast<size_t>(got - done), start + done);
            if (written < 0)
                return fail_errno(name);
            done += written;
        }
        start += got;
    }
    return {};
}

// Bytes [start, end), shared by both files where the file system can. Between file systems, and on
// some, the kernel leaves copying to us.
Status copy_range(int source, int target, off_t start, off_t end, const std::string& name) {
    off_t in = start, out = start;
    while (in < end) {
        ssize_t copied =
            ::copy_file_range(source, &in, target, &out, static_cast<size_t>(end - in), 0);
        if (copied < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL))
            return copy_bytes(source, target, in, end, name);
        if (copied < 0)
            return fail_errno(name + ": copy_file_range");
        if (copied == 0)
            return fail(Code::internal, name + ": its source shrank while it was copied");
    }
    return {};
}

// The data of `from` in `to`, holes staying holes. Blocks.
Status copy_sparse(const std::string& from, const std::string& to) {
    UniqueFd source(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
    if (!source)
        return fail_errno(from);
    struct stat status = {};
    if (::fstat(source.get(), &status) != 0)
        return fail_errno(from);
    UniqueFd target(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!target)
        return fail_errno(to);
    if (::ftruncate(target.get(), status.st_size) != 0)
        return fail_errno(to);
    off_t position = 0;
    while (position < status.st_size) {
        off_t data = ::lseek(source.get(), position, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;  // nothing but a hole is left
        if (data < 0)
            return fail_errno(from + ": SEEK_DATA");
        off_t end = ::lseek(source.get(), data, SEEK_HOLE);
        if (end < 0)
            return fail_errno(from + ": SEEK_HOLE");
        TRY(copy_range(source.get(), target.get(), data, end, to));
        position = end;
    }
    if (::fsync(target.get()) != 0)
        return fail_errno(to + ": fsync");
    return {};
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
