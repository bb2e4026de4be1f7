#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace spore {

// A directory of a test's own, gone with it: "spore-NAME-" and six letters in the system's place
// for such, or in `where`.
class ScratchDirectory {
  public:
    explicit ScratchDirectory(const std::string& name, const std::filesystem::path& where =
                                                           std::filesystem::temp_directory_path()) {
        std::string pattern = where / ("spore-" + name + "-XXXXXX");
        if (::mkdtemp(pattern.data()) == nullptr) {
            std::perror(pattern.c_str());
            std::abort();  // no test means anything without
        }
        path_ = pattern;
    }
    ~ScratchDirectory() {
        std::error_code ignored;  // something may be mounted in it, by a test that has failed
        std::filesystem::remove_all(path_, ignored);
    }
    ScratchDirectory(const ScratchDirectory&) = delete;
    ScratchDirectory& operator=(const ScratchDirectory&) = delete;

    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

}  // namespace spore
