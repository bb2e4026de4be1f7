#pragma once

// What this host can do for Spore, why, and what to do about it.

#include <string>
#include <vector>

namespace spore {

struct HostFinding {
    std::string name;
    bool good = false;
    bool needed = true;
    std::string what;      // what was found
    std::string remedy;    // what to do; empty if all is well
    std::string why = {};  // what it is good for, where the name does not say
};

struct HostFacts {
    std::vector<HostFinding> findings;
    bool runs_linux = false;  // its KVM runs a Linux guest's kernel at a speed that is of use
    bool good() const;        // all that is needed is
};

// Takes up to a second: it runs a probe guest.
HostFacts examine_host();

}  // namespace spore
