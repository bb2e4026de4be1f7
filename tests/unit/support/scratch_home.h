#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "hypervisor/sandbox/home.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {

// A $SPORE_HOME of a test's own. What it has in memory, elsewhere, goes with it.
class ScratchHome {
  public:
    explicit ScratchHome(const std::string& name) : scratch_(name), home_(open(scratch_.path())) {}
    ~ScratchHome() {
        std::error_code ignored;
        std::filesystem::path sandboxes = std::filesystem::canonical(home_.sandboxes(), ignored);
        if (sandboxes.has_parent_path())
            std::filesystem::remove_all(sandboxes.parent_path(), ignored);
        ::unsetenv("SPORE_HOME");
    }
    ScratchHome(const ScratchHome&) = delete;
    ScratchHome& operator=(const ScratchHome&) = delete;

    const Home* operator->() const { return &home_; }
    const Home& operator*() const { return home_; }

  private:
    static Home open(const std::filesystem::path& root) {
        ::setenv("SPORE_HOME", root.c_str(), 1);
        return Home::open().value();
    }

    const ScratchDirectory scratch_;
    const Home home_;
};

}  // namespace spore
