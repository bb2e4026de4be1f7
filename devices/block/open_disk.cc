#include "devices/block/open_disk.h"

#include <unistd.h>

#include <algorithm>

#include "devices/block/layered_disk.h"
#include "devices/block/raw_disk.h"

namespace spore {

namespace {

std::unexpected<Error> conflict(const std::string& field, const std::string& why) {
    return fail(Code::invalid_argument, "disk: " + field + ": " + why);
}

bool is_layered(const BlockConfig& config) {
    return config.copy_on_write || !config.base_path.empty() || !config.layers.empty();
}

Status check(const BlockConfig& config) {
    bool layered = is_layered(config);
    if (!layered && !config.map_path.empty())
        return conflict("map_path", "'" + config.map_path + "' is for copy-on-write disks only");
    if (!layered && config.create)
        return conflict("create", "is for copy-on-write disks only");
    if (!layered && config.bytes != 0)
        return conflict("bytes", std::to_string(config.bytes) + " is for copy-on-write disks only");
    if (layered && config.read_only && !config.path.empty())
        return conflict("path", "'" + config.path + "': a read-only disk of layers has no top");
    if (config.create && !config.map_path.empty())
        return conflict("map_path", "'" + config.map_path + "': a new top has no map yet");
    if (config.layers.size() > limits::kDiskLayersMax)
        return conflict("layers", std::to_string(config.layers.size()) + " of them; the bound is " +
                                      std::to_string(limits::kDiskLayersMax));
    return {};
}

Result<LayeredDisk::Layer> open_top(const BlockConfig& config, uint64_t bytes) {
    DiskFile file = config.create ? TRY(create_disk_file(config.path, bytes))
                                  : TRY(open_disk_file(config.path, DiskAccess::read_write));
    if (config.map_path.empty()) {
        if (::lseek(file.fd.get(), 0, SEEK_DATA) >= 0)
            return conflict("map_path", "is empty, but '" + config.path + "' has data");
        return LayeredDisk::Layer{std::move(file), TRY(LayerMap::create(bytes))};
    }
    return LayeredDisk::Layer{std::move(file), TRY(LayerMap::load(config.map_path))};
}

Result<std::unique_ptr<Disk>> open_layered(EventLoop& loop, const BlockConfig& config) {
    LayeredDisk::Parts parts;
    uint64_t bytes = 0;
    if (!config.base_path.empty()) {
        parts.base = TRY(open_disk_file(config.base_path, DiskAccess::read_only));
        constexpr uint64_t kCluster = LayerMap::kClusterBytes;
        bytes = (parts.base->bytes + kCluster - 1) / kCluster * kCluster;
    }
    for (const LayerConfig& layer : config.layers) {
        DiskFile file = TRY(open_disk_file(layer.path, DiskAccess::read_only));
        bytes = std::max(bytes, file.bytes);
        parts.layers.push_back({std::move(file), TRY(LayerMap::load(layer.map_path))});
    }
    parts.bytes = config.bytes != 0 ? config.bytes : bytes;
    TRY(LayerMap::create(parts.bytes));  // the size's check, before a file is made of it
    if (!config.read_only)
        parts.top = TRY(open_top(config, parts.bytes));
    auto disk = LayeredDisk::create(loop, std::move(parts));
    if (!disk && config.create)
        ::unlink(config.path.c_str());
    return TRY(std::move(disk));
}

}  // namespace

Result<std::unique_ptr<Disk>> open_disk(EventLoop& loop, const BlockConfig& config) {
    TRY(check(config));
    if (is_layered(config))
        return open_layered(loop, config);
    DiskFile file = TRY(open_disk_file(
        config.path, config.read_only ? DiskAccess::read_only : DiskAccess::read_write));
    return TRY(RawDisk::create(loop, std::move(file)));
}

}  // namespace spore
