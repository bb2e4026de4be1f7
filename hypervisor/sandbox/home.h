#pragma once

// Where everything of Spore's lives on this host: $SPORE_HOME, or /var/lib/spore for root, else
// $XDG_DATA_HOME/spore.
//
//   images/NAME/      what guests are made of (agent/image)
//   templates/NAME/   template.json and a snapshot
//   sandboxes/ID/     a sandbox's sockets and logs, in memory (run_directories.h)
//   pools/TEMPLATE/   clones made ahead of demand (pool.h), in memory too
//   disks/            the tops of their disks; a link in the sandbox's directory leads to its own

#include <filesystem>
#include <string>
#include <string_view>

#include "hypervisor/base/result.h"

namespace spore {

class Home {
  public:
    // The home that the environment names, made (mode 0700) if it is not there. Errors: the host's.
    static Result<Home> open();
    // The same anywhere. Errors also: invalid_argument (not an absolute path).
    static Result<Home> open(std::filesystem::path root);

    const std::filesystem::path& root() const { return root_; }
    std::filesystem::path images() const { return root_ / "images"; }
    std::filesystem::path templates() const { return root_ / "templates"; }
    std::filesystem::path sandboxes() const { return root_ / "sandboxes"; }
    std::filesystem::path pools() const { return root_ / "pools"; }
    std::filesystem::path disks() const { return root_ / "disks"; }

    // Spore's programs: in $SPORE_PROGRAMS, beside the running one (in the build tree, or in an
    // installation's libexec), or where this Spore was to be installed.
    static Result<std::filesystem::path> program(std::string_view name);

  private:
    explicit Home(std::filesystem::path root) : root_(std::move(root)) {}
    std::filesystem::path root_;
};

// Names of images, templates and sandboxes: 1 to 63 of a-z, 0-9 and '-', no '-' at either end.
// Errors: invalid_argument, naming `what` and the text.
Status check_name(std::string_view what, std::string_view name);

// A fresh sandbox ID: "sb-" and 12 random characters.
Result<std::string> random_name();

// Creates `path` (mode 0700); already_exists if something is there.
Status make_directory(const std::filesystem::path& path);

}  // namespace spore
