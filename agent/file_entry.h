#pragma once

// What is told of a file (wire::FileEntry).

#include <sys/stat.h>

#include <string>
#include <string_view>

#include "schema/frame.h"

namespace spore {

// `target` of a symbolic link, else empty.
flatbuffers::Offset<wire::FileEntry> create_entry(flatbuffers::FlatBufferBuilder& buffer,
                                                  std::string_view path, const struct stat& about,
                                                  std::string_view target);

// Of `name` in a directory, a symbolic link itself; where that leads to is put into `target`.
// False: it is not there any more, or cannot be looked at.
bool look_at(int directory, const char* name, struct stat& about, std::string& target);

inline flatbuffers::Offset<flatbuffers::Vector<uint8_t>> create_bytes(
    flatbuffers::FlatBufferBuilder& buffer, std::string_view bytes) {
    return buffer.CreateVector(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace spore
