#pragma once

// Starts jail_probe as start_vmm() starts a spore-vmm, and sees how it ends.

#include <map>
#include <string>

#include "hypervisor/jail/namespaces.h"

namespace spore {

struct Ended {
    int signal = 0;   // that killed it, or 0
    int status = -1;  // its exit status, if no signal did
    // What it reported of the jail: name -> "" if the item holds, else why not.
    std::map<std::string, std::string> report;
    std::string output;  // what it said besides
};

// The cgroup that a probe is started in, and the one that it is told.
struct ProbeCgroup {
    int handle = -1;
    std::string told;
};

class Probe {
  public:
    static Result<Probe> start(const std::string& role, const std::string& attempt,
                               uint64_t number = 0, bool own_pids = true,
                               const ProbeCgroup& cgroup = {});
    Probe(Probe&&) = default;
    Probe& operator=(Probe&&) = delete;
    ~Probe();  // kills it

    const IsolatedProcess& process() const { return process_; }
    // Reads what it says until `word` was in it; false: it ended before.
    bool wait_for(const std::string& word);
    Ended wait();

  private:
    Probe(IsolatedProcess process, UniqueFd output)
        : process_(std::move(process)), output_(std::move(output)) {}
    bool read_some();

    IsolatedProcess process_;
    UniqueFd output_;
    std::string said_;
    bool ended_ = false;
};

Ended run_probe(const std::string& role, const std::string& attempt, uint64_t number = 0);

}  // namespace spore
