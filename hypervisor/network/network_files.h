#pragma once

// The files of a sandbox's network; see sandbox_network.h. Nobody but hypervisor/network includes
// this.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/network/layout.h"

namespace spore {

inline constexpr const char* kNetworkLink = "network";  // in the clone's directory

class NetworkFiles {
  public:
    explicit NetworkFiles(std::filesystem::path root) : root_(std::move(root)) {}
    // Where the clone in `directory` has its network; nothing if it has none.
    static std::optional<NetworkFiles> of(const std::filesystem::path& directory);

    const std::filesystem::path& root() const { return root_; }
    std::filesystem::path pin() const { return root_ / "net"; }

    Status write_link(const std::string& link) const;
    Result<std::string> read_link() const;
    // Beside them in one step: a killed writer leaves the old ones.
    Status write_rules(const std::string& rules) const;
    Status forget_rules() const;
    Result<std::string> read_rules() const;
    Status remove() const;

  private:
    std::filesystem::path root_;
};

// The host's address on the link of that number; the sandbox's is the next one.
inline uint32_t link_address(uint32_t number) {
    return network_layout::kLinksBase + 2 * number;
}

}  // namespace spore
