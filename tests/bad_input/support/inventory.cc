#include "tests/bad_input/support/inventory.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fstream>
#include <vector>

#include "hypervisor/base/unique_fd.h"

namespace spore::test {

namespace {

namespace stdfs = std::filesystem;

// Of what is not a hole: a guest's memory is one page of data in 64 MiB.
uint64_t checksum(const stdfs::path& path, off_t size) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    uint64_t hash = 0;
    std::vector<char> buffer(1 << 20);
    off_t position = 0;
    while (file && position < size) {
        off_t data = ::lseek(file.get(), position, SEEK_DATA);
        if (data < 0)
            break;
        ssize_t got = ::pread(file.get(), buffer.data(), buffer.size(), data);
        if (got <= 0)
            break;
        hash ^= XXH3_64bits_withSeed(buffer.data(), static_cast<size_t>(got),
                                     static_cast<uint64_t>(data));
        position = data + got;
    }
    return hash;
}

std::string describe(const stdfs::path& path) {
    struct stat status = {};
    if (::lstat(path.c_str(), &status) != 0)
        return "gone";
    std::string text = "mode " + std::to_string(status.st_mode) + " ";
    if (S_ISREG(status.st_mode))
        text += std::to_string(status.st_size) + " bytes, checksum " +
                std::to_string(checksum(path, status.st_size));
    return text;
}

}  // namespace

Inventory Inventory::take(const stdfs::path& directory) {
    Inventory inventory;
    for (const auto& entry : stdfs::recursive_directory_iterator(directory))
        inventory.things["file " + entry.path().string()] = describe(entry.path());
    struct if_nameindex* cards = ::if_nameindex();
    for (auto* card = cards; card != nullptr && card->if_index != 0; card++)
        inventory.things[std::string("network card ") + card->if_name] = "";
    ::if_freenameindex(cards);
    std::string self = std::to_string(::getpid());
    std::ifstream children("/proc/self/task/" + self + "/children");
    for (int child; children >> child;)
        inventory.things["process " + std::to_string(child)] = "";
    return inventory;
}

std::string Inventory::difference(const Inventory& before, const Inventory& after) {
    std::string text;
    for (const auto& [name, what] : before.things) {
        auto found = after.things.find(name);
        if (found == after.things.end())
            text += "gone: " + name + "\n";
        else if (found->second != what)
            text += "changed: " + name + ": " + what + " -> " + found->second + "\n";
    }
    for (const auto& [name, what] : after.things) {
        if (!before.things.contains(name))
            text += "left behind: " + name + " " + what + "\n";
    }
    return text;
}

void stand_apart() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    (void)::unshare(CLONE_NEWNET);  // without the right to it, the host's cards are watched
}

}  // namespace spore::test
