#include "hypervisor/vmm/snapshot_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/virtio/net_backend.h"
#include "devices/virtio/vsock_listener.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/kvm/cpuid.h"
#include "hypervisor/snapshot/memory_image.h"
#include "hypervisor/snapshot/seal.h"
#include "hypervisor/snapshot/state_file.h"

namespace spore {

namespace {

Result<UniqueFd> open_read_only(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file)
        return fail_errno(path);
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0)
        return fail_errno(path);
    if (!S_ISREG(status.st_mode))
        return fail(Code::corrupt, path + ": not a regular file");
    return file;
}

Result<SnapshotFiles::Layer> open_layer(const std::string& path, const std::string& map) {
    SnapshotFiles::Layer layer;
    layer.file = TRY(open_disk_file(path, DiskAccess::read_only));
    layer.map_name = map;
    if (!map.empty()) {
        layer.map = UniqueFd(::open(map.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
        if (!layer.map)
            return fail_errno("layer map '" + map + "'");
    }
    return layer;
}

// The layers of disk `number` as the state names them, for whoever gave none.
Result<std::vector<SnapshotFiles::Layer>> open_layers_of(const DiskState& disk, size_t number,
                                                         const std::string& directory) {
    std::vector<SnapshotFiles::Layer> layers;
    // Without a directory they are the snapshot's own.
    auto find = [&](const std::string& path) {
        return path.empty() || path.find('/') != std::string::npos ? path : directory + "/" + path;
    };
    for (const DiskState::Layer& layer : disk.layers)
        layers.push_back(TRY(open_layer(find(layer.path), find(layer.map))));
    layers.push_back(TRY(open_layer(directory + "/" + disk_layer_file(number),
                                    directory + "/" + disk_map_file(number))));
    return layers;
}

Result<LoadedSnapshot::Disk> load_layers(std::vector<SnapshotFiles::Layer> layers) {
    LoadedSnapshot::Disk disk;
    for (SnapshotFiles::Layer& layer : layers) {
        disk.paths.push_back({layer.file.path, layer.map_name});
        if (layer.map) {
            auto map = TRY(LayerMap::read(layer.map.get(), layer.map_name));
            disk.layers.push_back({std::move(layer.file), std::move(map)});
        } else if (disk.base || !disk.layers.empty()) {
            return fail(Code::invalid_argument, "disk layer '" + layer.file.path +
                                                    "': only the lowest may be without a map");
        } else {
            disk.base = std::move(layer.file);
        }
    }
    return disk;
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

// The top of a layered disk, or a raw disk: which of them, the snapshot's state will tell.
Result<DiskFile> open_clone_disk(const DiskConfig& config, MadeFiles& made) {
    DiskAccess access = config.read_only ? DiskAccess::read_only : DiskAccess::read_write;
    if (::access(config.path.c_str(), F_OK) == 0 || config.read_only)
        return open_disk_file(config.path, access);
    auto file = TRY(make_disk_file(config.path));
    made.add(config.path);
    return file;
}

Status check_seal(const SnapshotFiles& files) {
    auto seal = TRY(Seal::read(files.directory));
    TRY(seal.check(files.memory.get(), files.directory + "/" + kMemoryFile));
    for (const auto& layers : files.disks) {
        for (const SnapshotFiles::Layer& layer : layers)
            TRY(seal.check(layer.file.fd.get(), layer.file.path));
    }
    return {};
}

}  // namespace

Result<SnapshotFiles> open_snapshot(const std::string& directory, std::span<const DiskConfig> disks,
                                    bool sealed) {
    SnapshotFiles files;
    files.directory = directory;
    files.state = TRY(open_read_only(directory + "/" + kStateFile));
    files.memory = TRY(open_read_only(directory + "/" + kMemoryFile));
    auto working_set = open_read_only(directory + "/" + kWorkingSetFile);
    if (!working_set && working_set.error().code != Code::not_found)
        return std::unexpected(std::move(working_set).error());
    if (working_set)
        files.working_set = std::move(*working_set);
    for (const DiskConfig& disk : disks) {
        files.disks.emplace_back();
        for (const DiskConfig::Layer& layer : disk.layers)
            files.disks.back().push_back(TRY(open_layer(layer.path, layer.map)));
    }
    if (sealed)
        TRY(check_seal(files));
    return files;
}

Result<LoadedSnapshot> load_snapshot(SnapshotFiles files, const Kvm& kvm, bool cpu_checked) {
    LoadedSnapshot snapshot;
    auto payload = TRY(read_state_file(files.state.get(), files.directory + "/" + kStateFile));
    snapshot.state = TRY(decode_state(payload));
    const MachineState& state = snapshot.state;
    TRY(check_memory_image(files.memory.get(), files.directory + "/" + kMemoryFile,
                           state.memory.image.file_bytes));
    // The descriptor may close once the memory is mapped; the mapping keeps the file.
    snapshot.memory = TRY(GuestMemory::map_private(files.memory.get(), state.memory.extents));
    if (files.exact_faults)
        TRY(read_page_by_page(snapshot.memory));
    if (files.working_set) {
        snapshot.working_set =
            TRY(read_working_set(files.working_set.get(), files.directory + "/" + kWorkingSetFile));
        TRY(check_snapshot_of(snapshot.working_set, state.memory.image.file_bytes,
                              state.created_unix_ns));
    }
    if (!cpu_checked)
        TRY(check_cpu(state, kvm));
    size_t number = 0;
    for (const DeviceState& device : state.devices) {
        auto* disk = std::get_if<DiskState>(&device.kind);
        if (disk == nullptr)
            continue;
        bool given = number < files.disks.size() && !files.disks[number].empty();
        if (given && !disk->layered)
            return fail(Code::invalid_argument, "disk " + std::to_string(number) +
                                                    ": layers given, the snapshot's has none");
        if (given && files.disks[number].size() != disk->layers.size() + 1)
            return fail(Code::invalid_argument, "disk " + std::to_string(number) + ": " +
                                                    std::to_string(files.disks[number].size()) +
                                                    " layers given, the snapshot has " +
                                                    std::to_string(disk->layers.size() + 1) +
                                                    " with its own");
        if (disk->layered && !given && is_jailed())
            return fail(Code::invalid_argument, "disk " + std::to_string(number) +
                                                    ": a jailed clone's needs its layers named");
        if (disk->layered) {
            auto layers = given ? std::move(files.disks[number])
                                : TRY(open_layers_of(*disk, number, files.directory));
            snapshot.disks.push_back(TRY(load_layers(std::move(layers))));
        }
        number++;
    }
    return snapshot;
}

Result<CloneFiles> open_clone_files(const MachineConfig& config, bool for_jail) {
    CloneFiles files;
    files.networks = config.networks;
    files.disk_rate = config.disk_rate;
    files.network_rate = config.network_rate;
    if (!for_jail)
        files.vsock_path = config.vsock_path;
    else if (!config.vsock_path.empty())
        files.vsock = TRY(bind_vsock_socket(config.vsock_path));
    for (const NetworkConfig& network : config.networks) {
        if (network.tap_fd >= 0)
            files.network_files.emplace_back(network.tap_fd);
        else if (!for_jail)
            files.network_files.emplace_back();
        else if (network.tap.empty())
            files.network_files.push_back(TRY(connect_net_socket(network.socket_path)));
        else
            files.network_files.push_back(TRY(open_tap(network.tap)));
    }
    for (const DiskConfig& disk : config.disks)
        files.disks.push_back(TRY(open_clone_disk(disk, files.made)));
    if (for_jail)
        files.made.keep();
    return files;
}

}  // namespace spore
