#pragma once

#include <memory>
#include <string>
#include <vector>

#include "devices/block/disk.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

// One read-only layer: its file and its map.
struct LayerConfig {
    std::string path;
    std::string map_path;
};

// A disk as its user describes it. With a base or layers, or `copy_on_write`, it is a LayeredDisk
// whose private top is `path`; else a RawDisk of the file or block device `path`.
struct BlockConfig {
    std::string path;
    bool read_only = false;  // layered: has no top then, and `path` must be empty
    std::string id;          // what the guest reads as the disk's serial; at most 20 bytes
    uint16_t queues = 1;     // 1..limits::kBlockQueuesMax

    bool copy_on_write = false;
    std::string base_path;            // raw image below everything; may be empty
    std::vector<LayerConfig> layers;  // oldest first
    std::string map_path;             // the map of a top that has data; empty: the top is empty
    bool create = false;              // makes the top's file first
    uint64_t bytes = 0;               // layered: size, a multiple of 4096; 0: as large as the parts
};

// Opens, checks and locks everything `config` names. Errors name the field or file, the value and
// the bound. Blocks.
Result<std::unique_ptr<Disk>> open_disk(EventLoop& loop, const BlockConfig& config);

}  // namespace spore
