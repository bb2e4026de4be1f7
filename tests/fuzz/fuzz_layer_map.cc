// A layer's map from anywhere: parses or is refused, and what parses is written back the same. The
// checksum is put right first, as it would keep all but intact files from the checks behind it.

#include <cstdlib>
#include <cstring>

#include "devices/block/layer_map.h"
#include "hypervisor/base/crc32c.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using spore::LayerMap;
    auto input = std::as_bytes(std::span(data, size));
    (void)LayerMap::parse(input);
    std::vector<std::byte> sealed(input.begin(), input.end());
    uint32_t crc = spore::crc32c(sealed);
    sealed.resize(size + sizeof(crc));
    std::memcpy(sealed.data() + size, &crc, sizeof(crc));
    auto map = LayerMap::parse(sealed);
    if (map.has_value() && map->serialize() != sealed)
        std::abort();
    return 0;
}
