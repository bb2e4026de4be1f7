#include "hypervisor/sandbox/agent_sessions.h"

namespace spore {

Status create_session(AgentConnection& agent, const SessionSpec& spec,
                      AgentConnection::Deadline deadline) {
    TRY(check_names(spec.environment));
    AgentStream stream = agent.open();
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(spec.name);
    const auto environment = buffer.CreateVectorOfStrings(assignments_of(spec.environment));
    const auto unset = buffer.CreateVectorOfStrings(spec.unset);
    const auto cwd = buffer.CreateString(spec.cwd);
    const auto user = buffer.CreateString(spec.user);
    const auto shell = buffer.CreateString(spec.shell);
    TRY(stream.send(wire::CreateSessionCreate(buffer, name, environment, unset, cwd, user, shell)));
    return stream.receive_done(deadline);
}

Result<std::vector<SessionInfo>> list_sessions(AgentConnection& agent,
                                               AgentConnection::Deadline deadline) {
    AgentStream stream = agent.open();
    TRY(stream.send(wire::CreateSessionList(stream.buffer())));
    std::vector<SessionInfo> sessions;
    while (true) {
        const auto* frame = TRY(stream.receive(deadline));
        if (frame == nullptr || frame->body_as_Done() != nullptr)
            return sessions;
        const auto* info = frame->body_as_SessionInfo();
        if (info == nullptr) {
            stream.fail_connection("agent: answered SessionList with another frame");
            return fail(Code::corrupt, "agent: answered SessionList with another frame");
        }
        sessions.push_back({.name = std::string(view(info->name())),
                            .cwd = std::string(view(info->cwd())),
                            .user = std::string(view(info->user())),
                            .shell = std::string(view(info->shell())),
                            .pid = info->pid(),
                            .busy = info->busy()});
    }
}

Status delete_session(AgentConnection& agent, const std::string& name,
                      AgentConnection::Deadline deadline) {
    AgentStream stream = agent.open();
    TRY(stream.send(
        wire::CreateSessionDelete(stream.buffer(), stream.buffer().CreateString(name))));
    return stream.receive_done(deadline);
}

}  // namespace spore
