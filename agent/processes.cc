#include "agent/processes.h"

#include <algorithm>

#include "agent/names.h"
#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

Result<size_t> log_bytes_of(const wire::ProcessStart& request) {
    const uint64_t wanted = request.log_bytes_max();
    if (wanted == 0)
        return limits::kProcessLogBytesDefault;
    if (wanted < limits::kProcessLogBytesMin || wanted > limits::kProcessLogBytesMax) {
        return fail(Code::invalid_argument,
                    "log of " + std::to_string(wanted) + " bytes: must be " +
                        std::to_string(limits::kProcessLogBytesMin) + " to " +
                        std::to_string(limits::kProcessLogBytesMax));
    }
    return wanted;
}

}  // namespace

Result<Processes::Started> Processes::start(const SpawnPlan& plan,
                                            const wire::ProcessStart& request) {
    const std::string name(view(request.name()));
    if (!name.empty())
        TRY(check_given_name("process name", name));
    const size_t log_bytes = TRY(log_bytes_of(request));
    for (const auto& [id, process] : processes_) {
        if (!name.empty() && process->name() == name && !process->exited()) {
            return fail(Code::already_exists,
                        "process name '" + name + "': process " + std::to_string(id) + " has it");
        }
    }
    TRY(make_room(log_bytes));
    auto process = std::make_unique<Process>(
        server_, Process::Options{.id = ++last_id_, .name = name, .log_bytes_max = log_bytes});
    const auto failure = TRY(process->start(plan, *request.exec()));
    if (failure)
        return Started{.failure = *failure};
    log_bytes_ += log_bytes;
    const Process* const started = process.get();
    processes_.emplace(started->id(), std::move(process));
    return Started{.process = started};
}

Status Processes::make_room(size_t log_bytes_max) {
    while (processes_.size() >= limits::kProcessesMax ||
           log_bytes_ + log_bytes_max > limits::kProcessLogsBytesMax) {
        const auto oldest = std::ranges::find_if(processes_, [](const auto& entry) {
            return entry.second->ended() && !entry.second->observed();
        });
        if (oldest == processes_.end()) {
            return fail(Code::resource_exhausted,
                        "processes: " + std::to_string(processes_.size()) + " run, with " +
                            std::to_string(log_bytes_) + " bytes for their logs; at most " +
                            std::to_string(limits::kProcessesMax) + ", with " +
                            std::to_string(limits::kProcessLogsBytesMax));
        }
        forget(oldest->first);
    }
    return {};
}

Result<Process*> Processes::find(uint32_t id, std::string_view name) {
    if (id != 0) {
        const auto found = processes_.find(id);
        if (found == processes_.end())
            return fail(Code::not_found, "process " + std::to_string(id) + ": there is none");
        return found->second.get();
    }
    if (name.empty())
        return fail(Code::invalid_argument, "process: neither ID nor name is given");
    Process* found = nullptr;
    for (const auto& [each_id, process] : processes_) {
        if (process->name() == name && (found == nullptr || found->exited()))
            found = process.get();
    }
    if (found == nullptr) {
        return fail(Code::not_found,
                    "process '" + std::string(name.substr(0, 80)) + "': there is none");
    }
    return found;
}

Process* Processes::from(uint32_t id) {
    const auto found = processes_.lower_bound(id);
    return found == processes_.end() ? nullptr : found->second.get();
}

Status Processes::remove(Process& process) {
    if (!process.ended()) {
        return fail(Code::unavailable, "process " + std::to_string(process.id()) + ": still runs");
    }
    forget(process.id());
    return {};
}

void Processes::forget(uint32_t id) {
    const auto found = processes_.find(id);
    log_bytes_ -= found->second->log().bytes_max();
    if (auto group = found->second->take_group())
        left_groups_.push_back(std::move(*group));
    processes_.erase(found);
}

Processes::Kept Processes::kept() const {
    Kept kept{.processes = static_cast<uint32_t>(processes_.size()), .reserved = log_bytes_};
    for (const auto& [id, process] : processes_)
        kept.output_bytes += process->log().bytes_kept();
    return kept;
}

void Processes::sweep_groups() {
    left_groups_.remove_if([](ControlGroup& group) { return group.remove(); });
}

}  // namespace spore
