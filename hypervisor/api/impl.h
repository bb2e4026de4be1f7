#pragma once

// What the public objects hold. Shared by their copies, and so by threads.

#include <spore/host.h>

#include <mutex>

#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/exec_capture.h"
#include "hypervisor/sandbox/home.h"
#include "hypervisor/sandbox/sandbox.h"
#include "hypervisor/sandbox/template.h"

namespace spore {
inline namespace v1 {

struct Host::Impl {
    Home home;
};

struct Template::Impl {
    Home home;
    Info info;
};

struct Sandbox::Impl {
    Impl(Home its_home, SandboxInfo its_info)
        : home(std::move(its_home)), record(std::move(its_info.record)) {}

    const Home home;
    const SandboxRecord record;

    // The connection that all calls share, made when first needed and again when it has ended.
    Result<std::shared_ptr<AgentConnection>> agent(const Call& call);
    // One that is there already: its creator's.
    void adopt(std::shared_ptr<AgentConnection> connection);
    // Its directory, if it still is the sandbox that it was. Errors: not_found, unavailable (its VM
    // has ended).
    Result<std::filesystem::path> running() const;

  private:
    std::timed_mutex mutex_;
    std::shared_ptr<AgentConnection> agent_;
};

// Runs `body` with the sandbox's connection; what it opens there ends with the call.
template <typename Body>
auto with_agent(Sandbox::Impl& sandbox, const Call& call, Body body)
    -> decltype(body(std::declval<AgentConnection&>())) {
    CancelScope scope(call.stop);
    if (call.stop.stop_requested())
        return fail(Code::unavailable, "the call was cancelled before it began");
    const auto agent = TRY(sandbox.agent(call));
    return body(*agent);
}

struct CommandControl::Impl {
    std::unique_ptr<ExecControl> control;
};

// In command.cc: between what programs see and what the agent is asked.
ExecRequest request_of(const Command& command);
ExecStreams streams_of(const Streams& streams);
// What feeds `streams` with the command's input, alive as long as it runs; none: nothing is made.
Result<UniqueFd> give_input(const Command& command, ExecStreams& streams);
Exit exit_of(ExecResult&& result);
Captured captured_of(Exit&& exit, const ExecCapture& kept);
// A file in memory that holds `bytes`, to be read from its start.
Result<UniqueFd> file_of(std::string_view bytes);

Template make_template(const Home& home, TemplateInfo info);
// In sandbox.cc. The connection that confirmed it is good for all that follows.
Sandbox sandbox_of(const Home& home, CreatedSandbox&& created);

}  // namespace v1
}  // namespace spore
