#include <spore/process.h>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"
#include "hypervisor/sandbox/agent_process.h"

namespace spore {
inline namespace v1 {

struct Process::Impl {
    std::shared_ptr<Sandbox::Impl> sandbox;
    uint32_t id = 0;
    std::string name;

    ProcessName which() const { return {.id = id, .name = {}}; }
};

namespace {

std::chrono::system_clock::time_point time_of(int64_t ns) {
    return std::chrono::system_clock::time_point(
        std::chrono::duration_cast<std::chrono::system_clock::duration>(
            std::chrono::nanoseconds(ns)));
}

Process::Info info_of(ProcessStatus&& status) {
    Process::Info info;
    info.id = status.id;
    info.name = std::move(status.name);
    info.pid = status.pid;
    info.argv = std::move(status.argv);
    info.started = time_of(status.started_ns);
    info.ended = time_of(status.ended_ns);
    if (status.end)
        info.exit = exit_of(std::move(*status.end));
    info.log_bytes = status.log_bytes;
    info.log_dropped = status.log_dropped;
    return info;
}

// Runs `body` with the processes of the sandbox's agent.
template <typename Body>
auto with_processes(Sandbox::Impl& sandbox, const Call& call, Body body)
    -> decltype(body(std::declval<AgentProcesses&>())) {
    return with_agent(sandbox, call, [&](AgentConnection& agent) {
        AgentProcesses processes(agent);
        return body(processes);
    });
}

Process make_process(const std::shared_ptr<Sandbox::Impl>& sandbox, uint32_t id, std::string name) {
    return Process(
        std::make_shared<const Process::Impl>(Process::Impl{sandbox, id, std::move(name)}));
}

}  // namespace

Result<Process> Sandbox::start(const Process::Spec& spec, const Call& call) const {
    return guarded([&] {
        return with_processes(*impl_, call, [&](AgentProcesses& processes) -> Result<Process> {
            const ProcessSpec wanted = {.command = request_of(spec.command),
                                        .name = spec.name,
                                        .with_stdin = spec.with_stdin,
                                        .log_bytes_max = spec.log_bytes_max};
            const auto started = TRY(processes.start(wanted, call.deadline));
            if (started.id != 0)
                return make_process(impl_, started.id, spec.name);
            constexpr int kAbsent = 127;
            return fail(
                started.failure.exit_status == kAbsent ? Code::not_found : Code::permission_denied,
                started.failure.message);
        });
    });
}

Result<std::vector<Process>> Sandbox::processes(const Call& call) const {
    return guarded([&] {
        return with_processes(
            *impl_, call, [&](AgentProcesses& processes) -> Result<std::vector<Process>> {
                std::vector<Process> all;
                for (auto& each : TRY(processes.list(call.deadline)))
                    all.push_back(make_process(impl_, each.id, std::move(each.name)));
                return all;
            });
    });
}

Result<Process> Sandbox::find_process(const std::string& id_or_name, const Call& call) const {
    return guarded([&] {
        return with_processes(*impl_, call, [&](AgentProcesses& processes) -> Result<Process> {
            auto status = TRY(processes.show(ProcessName::of(id_or_name), call.deadline));
            return make_process(impl_, status.id, std::move(status.name));
        });
    });
}

uint32_t Process::id() const {
    return impl_->id;
}

const std::string& Process::name() const {
    return impl_->name;
}

Result<Process::Info> Process::info(const Call& call) const {
    return guarded([&] {
        return with_processes(
            *impl_->sandbox, call, [&](AgentProcesses& processes) -> Result<Info> {
                return info_of(TRY(processes.show(impl_->which(), call.deadline)));
            });
    });
}

Status Process::logs(const Sink& sink, bool follow, uint64_t from, const Call& call) const {
    return guarded([&] {
        return with_processes(*impl_->sandbox, call, [&](AgentProcesses& processes) {
            return processes.logs(
                impl_->which(), {.from = from, .follow = follow},
                [&](const ProcessOutput& output) {
                    return sink({output.sequence, output.fd, time_of(output.time_ns), output.bytes,
                                 output.dropped});
                },
                call.deadline);
        });
    });
}

Result<Exit> Process::wait(const Call& call) const {
    return guarded([&] {
        return with_processes(
            *impl_->sandbox, call, [&](AgentProcesses& processes) -> Result<Exit> {
                return exit_of(TRY(processes.wait(impl_->which(), {}, call.deadline)));
            });
    });
}

Result<std::optional<Exit>> Process::wait_port(const PortCheck& check, const Call& call) const {
    return guarded([&] {
        return with_processes(*impl_->sandbox, call,
                              [&](AgentProcesses& processes) -> Result<std::optional<Exit>> {
                                  const PortQuestion question = {.port = check.port,
                                                                 .http = check.http,
                                                                 .path = check.path,
                                                                 .status_min = check.status_min,
                                                                 .status_max = check.status_max,
                                                                 .process = impl_->which()};
                                  auto end = TRY(processes.wait_port(question, call.deadline));
                                  if (!end)
                                      return std::nullopt;
                                  return exit_of(std::move(*end));
                              });
    });
}

Result<Process::Line> Process::wait_line(const std::string& pattern, bool expression,
                                         const Call& call) const {
    return guarded([&] {
        return with_processes(
            *impl_->sandbox, call, [&](AgentProcesses& processes) -> Result<Line> {
                const LineQuestion question = {.pattern = pattern, .expression = expression};
                auto answer = TRY(processes.wait_log(impl_->which(), question, call.deadline));
                if (!answer.line)
                    return fail(Code::unavailable, "process " + std::to_string(impl_->id) +
                                                       ": ended without such a line");
                return Line{std::move(answer.line->line), answer.line->begin, answer.line->length,
                            answer.line->sequence};
            });
    });
}

Result<bool> Process::input(int fd, bool close, const Call& call) const {
    return guarded([&] {
        return with_processes(*impl_->sandbox, call, [&](AgentProcesses& processes) {
            return processes.input(impl_->which(), fd, close, call.deadline);
        });
    });
}

Result<bool> Process::input(const std::string& bytes, bool close, const Call& call) const {
    return guarded([&]() -> Result<bool> {
        const UniqueFd file = TRY(file_of(bytes));
        return input(file.get(), close, call);
    });
}

Status Process::signal(int number, bool descendants, const Call& call) const {
    return guarded([&] {
        return with_processes(*impl_->sandbox, call, [&](AgentProcesses& processes) {
            return processes.signal(impl_->which(), number, descendants, call.deadline);
        });
    });
}

Status Process::remove(const Call& call) const {
    return guarded([&] {
        return with_processes(*impl_->sandbox, call, [&](AgentProcesses& processes) {
            return processes.remove(impl_->which(), call.deadline);
        });
    });
}

}  // namespace v1
}  // namespace spore
