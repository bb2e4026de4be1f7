#pragma once

#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

namespace spore {

// Files that were made on the way to something. They go with this, unless keep() says that the
// something has come to be: what fails leaves nothing behind.
class MadeFiles {
  public:
    MadeFiles() = default;
    MadeFiles(MadeFiles&& other) noexcept : paths_(std::exchange(other.paths_, {})) {}
    MadeFiles& operator=(MadeFiles&& other) noexcept {
        if (this != &other) {
            remove();
            paths_ = std::exchange(other.paths_, {});
        }
        return *this;
    }
    ~MadeFiles() { remove(); }

    void add(std::string path) { paths_.push_back(std::move(path)); }
    void keep() { paths_.clear(); }

  private:
    void remove() {
        for (const std::string& path : paths_)
            ::unlink(path.c_str());
        paths_.clear();
    }
    std::vector<std::string> paths_;
};

}  // namespace spore
