#pragma once

// What commands and processes have in common: how they are started, and their end.

#include <sys/resource.h>

#include "agent/guest.h"
#include "agent/spawn.h"
#include "schema/frame.h"

namespace spore {

// A program that the agent has started and reaps (Server::add_child).
class Child {
  public:
    // The kernel has reaped it.
    virtual void on_exit(int wait_status, const rusage& usage) = 0;

  protected:
    ~Child() = default;
};

// What became of one.
struct ChildEnd {
    int wait_status = 0;
    rusage usage = {};
    bool timed_out = false;
    bool oom_killed = false;
    bool session_ended = false;
};

flatbuffers::Offset<wire::Exited> exited_frame(flatbuffers::FlatBufferBuilder& buffer,
                                               const ChildEnd& end);

// What an Exec asks for, its streams and control group left open. Errors: not_found (user),
// invalid_argument.
Result<SpawnPlan> plan_of(const wire::Exec& request, const Guest& guest);

// How a start that failed is told: StartFailed if it is the program that could not be executed,
// else an error.
Result<flatbuffers::Offset<wire::StartFailed>> start_failed_frame(
    flatbuffers::FlatBufferBuilder& buffer, const SpawnPlan& plan, const SpawnFailure& failure,
    std::string_view user);

// Both ends of a child's three streams: its own go to the plan and are closed after the start, the
// agent's do not block.
struct ChildStreams {
    UniqueFd child_in, child_out, child_err;
    UniqueFd in;  // nothing without stdin: the child's is /dev/null
    UniqueFd out, err;
    // All three are one terminal: `child_in` is its end of it, `out` and `in` are the agent's, and
    // there is no other.
    bool terminal = false;

    static Result<ChildStreams> open(const wire::Exec& request, const SpawnPlan& plan);
    static Result<ChildStreams> open(bool with_stdin);
    void give_to(SpawnPlan& plan) const;
};

}  // namespace spore
