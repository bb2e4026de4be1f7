#pragma once

// A sandbox's resolver: answers its guest's questions for the names that its policy allows, with
// what the host's nameserver says, and opens the addresses that it gives out, each for its TTL.
// Whoever does not ask it gets nowhere. A process of its own (spore network-resolver), in the
// sandbox's namespace, started where names are allowed and ended with the VM.

#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/network/policy.h"

namespace spore {

// Whether a rule of the policy allows the name, and on which ports; 0 among them: all.
std::vector<uint16_t> allowed_ports(const NetworkPolicy& policy, const std::string& name);

struct ResolverPlan {
    std::filesystem::path directory;  // of the clone
    NetworkPolicy policy;
    int vmm_pid = 0;        // the VM whose end is ours
    unsigned user = 65534;  // that the process becomes, if root started it
    // Called when all that it needs is open and before it gives up what it may: leaves the host.
    std::function<Status()> shut_in = [] { return Status(); };
};

class Resolver {
  public:
    // Has the whole process enter the namespace, where it gives up every privilege but that over
    // networks. Questions wait from here on. Errors: the host's; already_exists (another serves).
    static Result<Resolver> begin(const ResolverPlan& plan);
    Resolver(Resolver&&) noexcept;
    ~Resolver();
    // Until the VM ends.
    Status serve();

  private:
    struct State;
    explicit Resolver(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace spore
