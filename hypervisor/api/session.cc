#include <spore/session.h>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"
#include "hypervisor/sandbox/agent_sessions.h"
#include "hypervisor/sandbox/exec_capture.h"

namespace spore {
inline namespace v1 {

struct Session::Impl {
    std::shared_ptr<Sandbox::Impl> sandbox;
    std::string name;
};

namespace {

Session make_session(const std::shared_ptr<Sandbox::Impl>& sandbox, std::string name) {
    return Session(std::make_shared<const Session::Impl>(Session::Impl{sandbox, std::move(name)}));
}

Result<Exit> run_line(const Session::Impl& session, const Command& line, ExecStreams streams,
                      const Call& call) {
    const UniqueFd input = TRY(give_input(line, streams));
    return with_agent(*session.sandbox, call, [&](AgentConnection& agent) -> Result<Exit> {
        ExecRequest request = request_of(line);
        request.session = session.name;
        return exit_of(TRY(agent.exec(request, streams, call.deadline)));
    });
}

Result<SessionInfo> find_info(AgentConnection& agent, const std::string& name, const Call& call) {
    for (SessionInfo& each : TRY(list_sessions(agent, call.deadline))) {
        if (each.name == name)
            return std::move(each);
    }
    return fail(Code::not_found, "session '" + name + "': there is none");
}

}  // namespace

Result<Session> Sandbox::create_session(const Session::Spec& spec, const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call, [&](AgentConnection& agent) -> Result<Session> {
            const SessionSpec wanted = {
                .name = spec.name,
                .environment = {spec.environment.begin(), spec.environment.end()},
                .unset = spec.unset,
                .cwd = spec.cwd,
                .user = spec.user,
                .shell = spec.shell};
            TRY(spore::create_session(agent, wanted, call.deadline));
            return make_session(impl_, spec.name);
        });
    });
}

Result<std::vector<Session>> Sandbox::sessions(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call,
                          [&](AgentConnection& agent) -> Result<std::vector<Session>> {
                              std::vector<Session> all;
                              for (SessionInfo& each : TRY(list_sessions(agent, call.deadline)))
                                  all.push_back(make_session(impl_, std::move(each.name)));
                              return all;
                          });
    });
}

Result<Session> Sandbox::find_session(const std::string& name, const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call, [&](AgentConnection& agent) -> Result<Session> {
            TRY(find_info(agent, name, call));
            return make_session(impl_, name);
        });
    });
}

const std::string& Session::name() const {
    return impl_->name;
}

Result<Session::Info> Session::info(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_->sandbox, call, [&](AgentConnection& agent) -> Result<Info> {
            SessionInfo info = TRY(find_info(agent, impl_->name, call));
            return Info{std::move(info.name),
                        std::move(info.cwd),
                        std::move(info.user),
                        std::move(info.shell),
                        info.pid,
                        info.busy};
        });
    });
}

Result<Exit> Session::run(const std::string& line, const Streams& streams, const Call& call) const {
    return guarded([&] { return run_line(*impl_, {.argv = {line}}, streams_of(streams), call); });
}

Result<Exit> Session::run(const Command& line, const Streams& streams, const Call& call) const {
    return guarded([&] { return run_line(*impl_, line, streams_of(streams), call); });
}

Result<Captured> Session::capture(const std::string& line, const Call& call,
                                  size_t bytes_max) const {
    return guarded([&]() -> Result<Captured> {
        ExecCapture kept(bytes_max);
        Exit exit = TRY(run_line(*impl_, {.argv = {line}}, kept.streams(), call));
        return captured_of(std::move(exit), kept);
    });
}

Status Session::remove(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_->sandbox, call, [&](AgentConnection& agent) {
            return delete_session(agent, impl_->name, call.deadline);
        });
    });
}

}  // namespace v1
}  // namespace spore
