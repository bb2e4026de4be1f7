#pragma once

// A directory of its own for each test, and the real spore-vmm in it.

#include <gtest/gtest.h>

#include <memory>

#include "hypervisor/sandbox/vmm_client.h"
#include "tests/bad_input/support/inventory.h"
#include "tests/bad_input/support/process.h"

namespace spore::test {

using Words = std::vector<std::string>;

// A directory under /tmp, gone with it.
class Scratch {
  public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

void write_file(const std::filesystem::path& path, std::string_view bytes);
std::string read_file(const std::filesystem::path& path);

// What is wrong with this end of a program that should have refused: one line on standard error,
// "<name>: ..." with all of `words` in it, exit status `status`, nothing on standard output. Empty
// if nothing.
std::string refusal_flaw(const Ended& ended, const std::string& name, int status,
                         const Words& words);

class VmmBench : public ::testing::Test {
  protected:
    void SetUp() override;

    const std::filesystem::path& here() const { return scratch_.path(); }
    std::string path(const std::string& name) const { return (here() / name).string(); }
    Launch launch(const Words& arguments) const;

    // spore-vmm must refuse: see refusal_flaw(); and it leaves all as it was.
    void expect_refusal(const Words& arguments, int status, const Words& words,
                        std::function<bool()> prepare = {});
    // The same for a VM that would have booted tiny.elf but for `arguments`, which come after.
    void expect_boot_refusal(const Words& arguments, int status, const Words& words);

    Scratch scratch_;
};

// How a VMM that was given something doubtful came out: it refused (an error and its status), or
// its VM ran and then ended as told or by itself. `flaw` says what was not in order, else it is
// empty.
struct Outcome {
    bool ran = false;
    std::string flaw;
    Ended ended;
};
// Starts it; if it says that it is ready, asks for its status and ends it by its control socket,
// "control" in the directory it starts in.
Outcome start_and_end(const Launch& launch);

// A tiny VM, booted once for all tests, and its snapshot: state.spore, memory.img, disk-0.img and
// disk-0.map.
class TinySnapshot {
  public:
    // Nothing, with a test failure, if it cannot be made.
    static const TinySnapshot* get();
    const std::filesystem::path& directory() const { return directory_; }
    const std::filesystem::path& base() const { return base_; }

    // A snapshot directory at `where` whose state file holds `state`; the rest is this one's, by
    // symbolic links.
    void variant(const std::filesystem::path& where, std::string_view state) const;

  private:
    std::string make();
    Scratch scratch_;
    std::filesystem::path directory_;
    std::filesystem::path base_;
};

}  // namespace spore::test
