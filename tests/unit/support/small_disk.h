#pragma once

#include <sys/mount.h>

#include <filesystem>
#include <string>

namespace spore {

// A file system of its own at a new directory, that small ("64k"). False, and errno says why: it
// cannot be had here, which takes root.
class SmallDisk {
  public:
    explicit SmallDisk(const std::string& path, const std::string& size = "1m") : path_(path) {
        std::filesystem::create_directory(path);
        mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
    }
    ~SmallDisk() {
        if (mounted_)
            ::umount2(path_.c_str(), MNT_DETACH);
    }
    SmallDisk(const SmallDisk&) = delete;
    SmallDisk& operator=(const SmallDisk&) = delete;
    explicit operator bool() const { return mounted_; }

  private:
    std::string path_;
    bool mounted_ = false;
};

}  // namespace spore
