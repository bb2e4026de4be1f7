// A template's checksums: decode_checksums() on any bytes. What it accepts is within the bounds it
// promises, and can be written down and read again.
#include <cstdlib>
#include <cstring>

#include "hypervisor/snapshot/checksums.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    // With the alignment that the vector of read_checked_file() has.
    std::vector<std::byte> bytes(size);
    std::memcpy(bytes.data(), data, size);
    auto checksums = decode_checksums(bytes);
    if (!checksums) {
        if (checksums.error().code != Code::corrupt)
            std::abort();
        return 0;
    }
    for (const FileChecksums& file : *checksums) {
        if (file.name.empty() || file.name.find('/') != std::string::npos || file.name[0] == '.')
            std::abort();
        if (file.bytes > 0 && file.chunk_hashes.size() != (file.bytes - 1) / kImageChunkBytes + 1)
            std::abort();
    }
    auto again = decode_checksums(encode_checksums(*checksums));
    if (!again || *again != *checksums)
        std::abort();
    return 0;
}
