#pragma once

#include <list>
#include <map>
#include <memory>
#include <string_view>

#include "agent/process.h"

namespace spore {

// All processes that no connection owns, running and ended. Their number and the memory of their
// logs are bounded.
class Processes {
  public:
    explicit Processes(Server& server) : server_(server) {}

    struct Started {
        const Process* process = nullptr;  // nullptr: it could not be executed
        SpawnFailure failure;
    };
    // Errors: already_exists (its name), resource_exhausted, and those of the start.
    Result<Started> start(const SpawnPlan& plan, const wire::ProcessStart& request);

    // By `id`, or where that is 0 by `name`: the one that runs, else the last that has ended.
    // Errors: not_found; invalid_argument if neither is given.
    Result<Process*> find(uint32_t id, std::string_view name);
    // The first with this ID or a later one; nullptr.
    Process* from(uint32_t id);
    // Errors: unavailable while it runs.
    Status remove(Process& process);

    struct Kept {
        uint32_t processes = 0;
        uint64_t output_bytes = 0, reserved = 0;  // of their logs
    };
    Kept kept() const;

    // Some child has ended: control groups that were still in use may be empty now.
    void sweep_groups();

  private:
    Status make_room(size_t log_bytes_max);
    void forget(uint32_t id);

    Server& server_;
    uint32_t last_id_ = 0;
    size_t log_bytes_ = 0;  // reserved, of all
    std::map<uint32_t, std::unique_ptr<Process>> processes_;
    // Of forgotten processes that have left something behind. In a guest they are as many at most
    // as it has processes.
    std::list<ControlGroup> left_groups_;
};

// The process that a request names by its fields `id` and `name`.
template <typename Body>
Result<Process*> named_process(Processes& processes, const Body& request) {
    return processes.find(request.id(), view(request.name()));
}

}  // namespace spore
