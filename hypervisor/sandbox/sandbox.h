#pragma once

// Sandboxes: clones of a template, each in a VM of its own.

#include <chrono>
#include <map>
#include <stop_token>

#include "hypervisor/sandbox/agent_client.h"
#include "hypervisor/sandbox/cgroup_quotas.h"
#include "hypervisor/sandbox/home.h"
#include "hypervisor/sandbox/pool.h"
#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/template.h"

namespace spore {

struct SandboxSpec {
    std::string id;  // empty: a random one
    std::string template_name;
    std::map<std::string, std::string> environment;
    std::map<std::string, std::string> labels;
    std::string owner;
    NetworkWords network;
    Quotas quotas;
    bool cold = false;                        // take none of the template's pool
    bool stage_times = false;                 // note where the time goes
    std::chrono::milliseconds limit{60'000};  // for all of it, but for checking a template's files
    std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
    std::stop_token stop = {};  // unavailable, and nothing is left of it; as `limit`, not the check
    Progress progress = [](const std::string&) {};  // of that check, where it is due
};

// From the request's arrival, in µs; shared/design.md, Restore. 0: not reached or not measured.
struct Boundaries {
    uint64_t b1_us = 0;  // the VM is built
    uint64_t b2_us = 0;  // its first exit; its first entry, if KVM alone answered it until B3
    uint64_t b3_us = 0;  // the agent has confirmed
};

// Where the time of a create_sandbox() went: the end of each stage since the request. Those of the
// VMM begin with "vmm."; one that waited in a pool had some of its stages before the request.
struct StageTime {
    std::string name;
    int64_t end_us = 0;
};

struct SandboxInfo {
    SandboxRecord record;
    bool alive = false;  // its spore-vmm runs
};

// A sandbox just created.
struct CreatedSandbox {
    SandboxInfo info;
    CloneSource source = CloneSource::cold;
    // The connection that confirmed its identity, good for its first command: another would take
    // two round trips to make.
    AgentClient agent;
    Boundaries boundaries;          // b3 only, before learn_times()
    std::vector<StageTime> stages;  // if asked for, in time's order; the VMM's by learn_times()
    uint64_t begun_monotonic_ns = 0;
    std::vector<Unenforced> unenforced;  // of its quotas, what this host does not hold
};

// Clones the template and gives the clone its identity; nothing of the user's has run before the
// agent confirmed new entropy. On any error nothing is left of it. Errors: not_found (template),
// already_exists (ID), invalid_argument, timeout, resource_exhausted, corrupt, version_mismatch.
Result<CreatedSandbox> create_sandbox(const Home& home, const SandboxSpec& spec);
struct RestartSpec {
    bool running_too = false;  // ends one that runs
    std::chrono::milliseconds limit{60'000};
    std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
    std::stop_token stop = {};
    Progress progress = [](const std::string&) {};  // as SandboxSpec's
};
// Gives a sandbox whose VM has ended a new one under the same ID: a fresh clone of its template,
// with its environment, labels, owner, limits and network as its record has them. Its files, and
// what ran in it, are gone. The old one is there until the new one has its place, which is one
// step: on any error, and whoever dies, the sandbox is as it was. Errors: not_found, unavailable
// (it runs, or somebody else works on it), create_sandbox's.
Result<CreatedSandbox> restart_sandbox(const Home& home, const std::string& id,
                                       const RestartSpec& wanted);
// Asks the VMM for B1, B2 and its stages, which it alone knows. Not a part of creating, since it is
// a round trip that nobody but who measures needs. Errors: timeout, unavailable.
Status learn_times(const Home& home, CreatedSandbox& created);
Result<SandboxInfo> find_sandbox(const Home& home, const std::string& id);
// One that nobody else changes or ends as long as `lock` is there.
struct HeldSandbox {
    DirectoryLock lock;
    SandboxInfo info;
};
// Errors: not_found, unavailable (somebody else has it).
Result<HeldSandbox> hold_sandbox(const Home& home, const std::string& id);
// Also clears away what died in the middle of being created or destroyed.
Result<std::vector<SandboxInfo>> list_sandboxes(const Home& home);
// Ends the VM and removes all that belongs to the sandbox. Errors: not_found.
Status destroy_sandbox(const Home& home, const std::string& id);

struct UpdatedSandbox {
    SandboxInfo info;
    std::vector<Unenforced> unenforced;
};
// Changes the quotas of a sandbox that runs, at once: all that `words` name, or none. Errors:
// not_found, invalid_argument, resource_exhausted, version_mismatch (its agent is too old),
// unavailable, timeout.
Result<UpdatedSandbox> update_sandbox(const Home& home, const std::string& id,
                                      const QuotaWords& words, std::chrono::milliseconds limit);

// Where its sockets are, for those that talk to it.
std::filesystem::path run_directory(const Home& home, const std::string& id);

}  // namespace spore
