#include "hypervisor/snapshot/verify.h"

#include "devices/block/layer_map.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/state_file.h"
#include "hypervisor/snapshot/working_set.h"

namespace spore {

namespace {

Status verify_memory(const std::filesystem::path& directory, const MemoryImageInfo& image,
                     const FileChecksums* known) {
    if (known == nullptr) {
        auto memory = TRY(open_memory_image(directory / kMemoryFile, image.file_bytes));
        return verify_memory_image(memory.get(), image.file_bytes, image.chunk_hashes);
    }
    if (known->bytes != image.file_bytes || known->chunk_hashes != image.chunk_hashes)
        return fail(Code::corrupt, (directory / kMemoryFile).string() +
                                       ": is not the memory that the state's checksums are of");
    return {};
}

}  // namespace

Status verify_snapshot(const std::filesystem::path& directory, const FileChecksums* memory) {
    auto payload = TRY(read_state_file(directory / kStateFile));
    auto state = TRY(decode_state(payload));
    TRY(verify_memory(directory, state.memory.image, memory));
    auto set = read_working_set(directory / kWorkingSetFile);
    if (!set && set.error().code != Code::not_found)
        return std::unexpected(std::move(set).error());
    if (set)
        TRY(check_snapshot_of(*set, state.memory.image.file_bytes, state.created_unix_ns));
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
