#include "hypervisor/snapshot/verify.h"

#include "devices/block/layer_map.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/state_file.h"

namespace spore {

Status verify_snapshot(const std::filesystem::path& directory) {
    auto payload = TRY(read_state_file(directory / kStateFile));
    auto state = TRY(decode_state(payload));
    const MemoryImageInfo& image = state.memory.image;
    auto memory = TRY(open_memory_image(directory / kMemoryFile, image.file_bytes));
    TRY(verify_memory_image(memory.get(), image.file_bytes, image.chunk_hashes));
    size_t disk = 0;
    for (const DeviceState& device : state.devices) {
        auto* kind = std::get_if<DiskState>(&device.kind);
        if (kind == nullptr)
            continue;
        if (kind->layered)
            TRY(LayerMap::load(directory / disk_map_file(disk)));
        disk++;
    }
    return {};
}

}  // namespace spore
