#pragma once

// Tells a pool's keeper when something has changed on the host that the networks of waiting clones
// rest on, so that whoever takes one need not look.

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// One thread, in the host's network namespace.
class HostWatch {
  public:
    // Errors: permission_denied (needs CAP_NET_ADMIN), the host's.
    static Result<HostWatch> open();

    // Readable when somebody has changed nftables' rules, or an IPv4 address came or went.
    int rules() const { return rules_.get(); }
    int addresses() const { return addresses_.get(); }
    // Whether that was so since the last time; not what it is.
    bool rules_changed();
    bool addresses_changed();

  private:
    HostWatch(UniqueFd rules, UniqueFd addresses)
        : rules_(std::move(rules)), addresses_(std::move(addresses)) {}

    UniqueFd rules_;
    UniqueFd addresses_;
};

}  // namespace spore
