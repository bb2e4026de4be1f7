#include "devices/block/layer_map.h"

#include <algorithm>
#include <cassert>

namespace spore {

Result<LayerMap> LayerMap::create(uint64_t disk_bytes) {
    if (disk_bytes == 0 || disk_bytes % kClusterBytes != 0 ||
        disk_bytes > limits::kLayeredDiskBytesMax)
        return fail(Code::invalid_argument, "layered disk: size is " + std::to_string(disk_bytes) +
                                                " bytes; a multiple of 4096 from 4096 to " +
                                                std::to_string(limits::kLayeredDiskBytesMax) +
                                                " is due");
    return LayerMap(disk_bytes / kClusterBytes);
}

Status LayerMap::grow(uint64_t disk_bytes) {
    assert(disk_bytes >= this->disk_bytes());
    LayerMap larger = TRY(create(disk_bytes));
    clusters_ = larger.clusters_;
    chunks_.resize(larger.chunks_.size());
    return {};
}

void LayerMap::set(uint64_t first, uint64_t last) {
    assert(first <= last && last <= clusters_);
    while (first < last) {
        std::unique_ptr<Chunk>& chunk = chunks_[first / kChunkClusters];
        if (!chunk)
            chunk = std::make_unique<Chunk>();
        uint64_t bits = std::min(64 - first % 64, last - first);
        uint64_t mask = (bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1) << first % 64;
        uint64_t& word = (*chunk)[word_of(first)];
        count_ += static_cast<uint64_t>(std::popcount(mask & ~word));
        word |= mask;
        first += bits;
    }
}

bool LayerMap::holds_all(uint64_t first, uint64_t last) const {
    for (uint64_t cluster = first; cluster < last; cluster++) {
        if (!test(cluster))
            return false;
    }
    return true;
}

bool LayerMap::operator==(const LayerMap& other) const {
    if (clusters_ != other.clusters_ || count_ != other.count_)
        return false;
    for (size_t index = 0; index < chunks_.size(); index++) {
        const Chunk* mine = chunks_[index].get();
        const Chunk* theirs = other.chunks_[index].get();
        // A chunk exists only with a bit in it, so one that only one side has differs.
        if ((mine == nullptr) != (theirs == nullptr) || (mine != nullptr && *mine != *theirs))
            return false;
    }
    return true;
}

}  // namespace spore
