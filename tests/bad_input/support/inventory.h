#pragma once

// What there is in the places where a VMM could leave something behind.

#include <filesystem>
#include <map>
#include <string>

namespace spore::test {

// Every file below a directory: kind, mode, size and the checksum of its contents; the
// network cards; and the processes that are children of this one.
struct Inventory {
    std::map<std::string, std::string> things;

    static Inventory take(const std::filesystem::path& directory);
    // Empty where they are equal, else what appeared, went and changed, one a line.
    static std::string difference(const Inventory& before, const Inventory& after);
};

// From here on a grandchild whose parent ends becomes our child, where Inventory sees it; and where
// it may, this process gets network cards of its own, which no other program changes.
void stand_apart();

}  // namespace spore::test
