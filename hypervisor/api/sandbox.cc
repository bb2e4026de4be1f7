#include <spore/sandbox.h>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"
#include "hypervisor/sandbox/agent_ports.h"
#include "hypervisor/sandbox/exec_capture.h"
#include "hypervisor/sandbox/guest.h"

namespace spore {
inline namespace v1 {

namespace {

// A new connection may take no longer than this, whatever the call's own deadline.
constexpr std::chrono::seconds kConnectLimit{20};
constexpr uint16_t kPortsProtocol = 3;  // schema/agent.fbs

std::chrono::steady_clock::time_point connect_limit(const Call& call) {
    return std::min(call.deadline, std::chrono::steady_clock::now() + kConnectLimit);
}

using Variables = std::vector<std::pair<std::string, std::string>>;

Variables variables_of(const std::map<std::string, std::string>& map) {
    return {map.begin(), map.end()};
}

Result<Exit> run_on(Sandbox::Impl& sandbox, const Command& command, ExecStreams streams,
                    const Call& call) {
    const UniqueFd input = TRY(give_input(command, streams));
    return with_agent(sandbox, call, [&](AgentConnection& agent) -> Result<Exit> {
        return exit_of(TRY(agent.exec(request_of(command), streams, call.deadline)));
    });
}

}  // namespace

Result<std::shared_ptr<AgentConnection>> Sandbox::Impl::agent(const Call& call) {
    // Those who come while it is made need it too.
    std::unique_lock lock(mutex_, std::defer_lock);
    const auto limit = connect_limit(call);
    if (!lock.try_lock_until(limit))
        return fail(Code::timeout, "sandbox '" + record.id + "': no connection in time");
    if (agent_ && !agent_->broken())
        return agent_;
    const auto directory = TRY(running());
    agent_ = TRY(AgentConnection::over(TRY(connect_agent(directory, limit))));
    return agent_;
}

void Sandbox::Impl::adopt(std::shared_ptr<AgentConnection> connection) {
    std::unique_lock lock(mutex_);
    agent_ = std::move(connection);
}

Result<std::filesystem::path> Sandbox::Impl::running() const {
    const auto info = TRY(find_sandbox(home, record.id));
    // Another may have taken its name.
    if (info.record.process.pid != record.process.pid ||
        info.record.created_unix_ms != record.created_unix_ms)
        return fail(Code::not_found, "sandbox '" + record.id + "': was destroyed");
    if (!info.alive)
        return fail(Code::unavailable,
                    "sandbox '" + record.id + "': its VM has ended; restart or destroy it");
    return run_directory(home, record.id);
}

Sandbox sandbox_of(const Home& home, CreatedSandbox&& created) {
    auto impl = std::make_shared<Sandbox::Impl>(home, std::move(created.info));
    // Without it another is made.
    if (auto agent = AgentConnection::over(std::move(created.agent)))
        impl->adopt(std::move(*agent));
    return Sandbox(std::move(impl));
}

const std::string& Sandbox::id() const {
    return impl_->record.id;
}

const std::string& Sandbox::template_name() const {
    return impl_->record.template_name;
}

const std::string& Sandbox::owner() const {
    return impl_->record.owner;
}

const std::map<std::string, std::string>& Sandbox::labels() const {
    return impl_->record.labels;
}

std::chrono::system_clock::time_point Sandbox::created() const {
    return std::chrono::system_clock::time_point(
        std::chrono::milliseconds(impl_->record.created_unix_ms));
}

Result<bool> Sandbox::alive() const {
    return guarded([&]() -> Result<bool> {
        const auto running = impl_->running();
        if (!running && running.error().code != Code::unavailable)
            return std::unexpected(running.error());
        return running.has_value();
    });
}

Result<Sandbox> Sandbox::restart(bool running_too, const Call& call) const {
    return guarded([&]() -> Result<Sandbox> {
        const auto running = impl_->running();
        if (!running && running.error().code != Code::unavailable)
            return std::unexpected(running.error());
        RestartSpec wanted;
        wanted.running_too = running_too;
        wanted.deadline = call.deadline;
        wanted.stop = call.stop;
        return sandbox_of(impl_->home, TRY(restart_sandbox(impl_->home, id(), wanted)));
    });
}

Status Sandbox::destroy() const {
    return guarded([&]() -> Status {
        const auto running = impl_->running();
        if (!running && running.error().code != Code::unavailable)
            return std::unexpected(running.error());
        return destroy_sandbox(impl_->home, id());
    });
}

Result<Exit> Sandbox::run(const Command& command, const Streams& streams, const Call& call) const {
    return guarded([&] { return run_on(*impl_, command, streams_of(streams), call); });
}

Result<Captured> Sandbox::capture(const Command& command, const Call& call,
                                  size_t bytes_max) const {
    return guarded([&]() -> Result<Captured> {
        ExecCapture kept(bytes_max);
        Exit exit = TRY(run_on(*impl_, command, kept.streams(), call));
        return captured_of(std::move(exit), kept);
    });
}

Status Sandbox::set_environment(const std::map<std::string, std::string>& set,
                                const std::vector<std::string>& unset, const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call, [&](AgentConnection& agent) {
            return agent.set_environment(variables_of(set), unset, call.deadline);
        });
    });
}

Status Sandbox::ping(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call,
                          [&](AgentConnection& agent) { return agent.ping(call.deadline); });
    });
}

Result<std::vector<Sandbox::Port>> Sandbox::ports(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call, [&](AgentConnection& agent) -> Result<std::vector<Port>> {
            std::vector<Port> ports;
            for (ListeningPort& each : TRY(list_ports(agent, call.deadline)))
                ports.push_back({each.port, std::move(each.address), each.pid,
                                 std::move(each.process), each.uid});
            return ports;
        });
    });
}

namespace {

// `connect` takes the sandbox's directory. An agent that has no such port is told apart from one
// that refuses.
template <typename Connect>
Result<Socket> connect_to(Sandbox::Impl& sandbox, const Call& call, Connect connect) {
    return with_agent(sandbox, call, [&](AgentConnection& agent) -> Result<Socket> {
        if (agent.info().protocol < kPortsProtocol)
            return fail(Code::host_unsupported, "ports: need protocol version " +
                                                    std::to_string(kPortsProtocol) +
                                                    ", and this sandbox's agent speaks " +
                                                    std::to_string(agent.info().protocol));
        auto fd = TRY(connect(run_directory(sandbox.home, sandbox.record.id)));
        return Socket(fd.release());
    });
}

}  // namespace

Result<Socket> Sandbox::connect_port(uint16_t port, const Call& call) const {
    return guarded([&] {
        return connect_to(*impl_, call, [&](const std::filesystem::path& directory) {
            return spore::connect_port(directory, port, connect_limit(call));
        });
    });
}

Result<Socket> Sandbox::connect_socket(const std::string& path, const Call& call) const {
    return guarded([&] {
        return connect_to(*impl_, call, [&](const std::filesystem::path& directory) {
            return connect_guest_socket(directory, path, connect_limit(call));
        });
    });
}

}  // namespace v1
}  // namespace spore
