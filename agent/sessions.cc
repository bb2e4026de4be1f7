#include "agent/sessions.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "agent/file.h"
#include "agent/names.h"
#include "agent/server.h"
#include "agent/session_line.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

Sessions::~Sessions() {
    sessions_.clear();
    if (!directory_.empty())
        ::rmdir(directory_.c_str());
}

// Others may pass through it to the files that they own, and add none.
Status Sessions::make_directory() {
    struct stat about = {};
    if (!directory_.empty() && ::stat(directory_.c_str(), &about) == 0)
        return {};
    const bool own = ::getpid() == 1 && ::access(kOwnFiles, W_OK) == 0;
    std::string name = std::string(own ? kOwnFiles : "/tmp") + "/spore-sessions-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr || ::chmod(name.c_str(), 0711) != 0)
        return fail_errno("make a directory " + name);
    directory_ = name;
    return {};
}

Status Sessions::create(const wire::SessionCreate& request) {
    const std::string_view name = view(request.name());
    TRY(check_given_name("session", name));
    if (find(name))
        return fail(Code::already_exists, "session '" + std::string(name) + "': exists");
    if (sessions_.size() >= limits::kAgentSessionsMax) {
        return fail(Code::resource_exhausted,
                    "sessions: at most " + std::to_string(limits::kAgentSessionsMax));
    }
    TRY(make_directory());
    auto session = std::make_unique<Session>(server_, ++last_serial_, directory_);
    if (const Status opened = session->open(request); !opened) {
        leave_group(*session);
        return opened;
    }
    sessions_.push_back(std::move(session));
    return {};
}

Result<Session*> Sessions::find(std::string_view name) {
    const auto found = std::ranges::find(sessions_, name, &Session::name);
    if (found == sessions_.end()) {
        return fail(
            Code::not_found,
            "session '" + std::string(name.substr(0, limits::kNameBytesMax)) + "': there is none");
    }
    return found->get();
}

Status Sessions::remove(std::string_view name) {
    Session* session = TRY(find(name));
    leave_group(*session);
    std::erase_if(sessions_, [session](const auto& each) { return each.get() == session; });
    return {};
}

void Sessions::leave_group(Session& session) {
    if (auto group = session.take_group())
        left_groups_.push_back(std::move(*group));
    sweep_groups();
}

void Sessions::sweep_groups() {
    left_groups_.remove_if([](ControlGroup& group) { return group.remove(); });
}

Status Sessions::may_wait(size_t bytes) const {
    for (const auto& session : sessions_)
        bytes += session->bytes_waiting();
    if (bytes <= limits::kSessionWaitingBytesMax)
        return {};
    return fail(Code::resource_exhausted,
                "lines that wait for a session: " + std::to_string(bytes) + " bytes, at most " +
                    std::to_string(limits::kSessionWaitingBytesMax));
}

Result<std::unique_ptr<Stream>> serve_session_create(const Request& request) {
    request.answer(request.server.sessions().create(request.body<wire::SessionCreate>()));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_session_list(const Request& request) {
    for (const auto& session : request.server.sessions().all())
        request.connection.send(request.stream, session->info(request.connection.buffer()));
    request.answer({});
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_session_delete(const Request& request) {
    const std::string name(view(request.body<wire::SessionDelete>().name()));
    request.answer(request.server.sessions().remove(name));
    return nullptr;
}

Result<std::unique_ptr<Stream>> serve_session_line(const Request& request) {
    const auto& exec = request.body<wire::Exec>();
    Sessions& sessions = request.server.sessions();
    Session* session = TRY(sessions.find(view(exec.session())));
    auto line = std::make_unique<SessionLine>(request, *session);
    TRY(line->read(exec));
    TRY(sessions.may_wait(line->bytes()));
    session->add(*line);
    return line;
}

}  // namespace spore
