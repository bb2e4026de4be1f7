#include "hypervisor/sandbox/code_context.h"

#include <algorithm>
#include <csignal>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_process.h"
#include "hypervisor/sandbox/code_context_drivers.h"
#include "hypervisor/sandbox/code_run.h"

namespace spore {

using Clock = std::chrono::steady_clock;

namespace {

struct Language {
    ContextLanguage language;
    std::string_view name;     // in the name of its processes too
    std::string_view program;  // by PATH
};
constexpr Language kLanguages[] = {{ContextLanguage::python, "python", "python3"},
                                   {ContextLanguage::javascript, "javascript", "node"}};
constexpr std::string_view kProcessPrefix = "context.";
constexpr size_t kNameBytesMax = 40;  // with prefix and language below limits::kNameBytesMax

const Language& entry_of(ContextLanguage language) {
    return *std::ranges::find(kLanguages, language, &Language::language);
}

Status check_context_name(const std::string& name) {
    const bool good =
        !name.empty() && name.size() <= kNameBytesMax && std::ranges::all_of(name, [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                   c == '-' || c == '_';
        });
    if (good)
        return {};
    return fail(Code::invalid_argument, "context '" + name.substr(0, 80) + "': must be 1 to " +
                                            std::to_string(kNameBytesMax) +
                                            " letters, digits, '-' and '_'");
}

std::string process_name(const std::string& name, ContextLanguage language) {
    return std::string(kProcessPrefix) + std::string(language_name(language)) + "." + name;
}

// The context that a process is, if it is one.
std::optional<ContextInfo> context_of(const ProcessStatus& process) {
    for (const Language& each : kLanguages) {
        const std::string prefix = process_name("", each.language);
        if (!process.end && process.name.starts_with(prefix)) {
            return ContextInfo{.name = process.name.substr(prefix.size()),
                               .language = each.language,
                               .process = process.id};
        }
    }
    return std::nullopt;
}

std::vector<std::string> argv_of(const ContextSpec& spec) {
    std::string program = spec.program;
    if (program.empty())
        program = entry_of(spec.language).program;
    if (spec.language == ContextLanguage::python)
        return {program, "-u", "-c", std::string(kContextPython)};
    return {program, "-e", std::string(kContextNode)};
}

// What an interpreter that has ended at once has said.
std::string last_words(AgentProcesses& processes, const ProcessName& process,
                       AgentClient::Deadline deadline) {
    std::string words;
    (void)processes.logs(
        process, {},
        [&](const ProcessOutput& output) -> Status {
            words.append(reinterpret_cast<const char*>(output.bytes.data()), output.bytes.size());
            return {};
        },
        deadline);
    constexpr size_t kWordsMax = 400;
    return words.size() <= kWordsMax ? words : words.substr(words.size() - kWordsMax);
}

}  // namespace

std::string_view language_name(ContextLanguage language) {
    return entry_of(language).name;
}

Result<ContextLanguage> language_of(std::string_view name) {
    const auto* const found = std::ranges::find(kLanguages, name, &Language::name);
    if (found != std::end(kLanguages))
        return found->language;
    return fail(Code::invalid_argument,
                "language '" + std::string(name) + "': must be python or javascript");
}

Status CodeContexts::create(const ContextSpec& spec, Deadline deadline) {
    TRY(check_context_name(spec.name));
    for (const ContextInfo& each : TRY(list(deadline))) {
        if (each.name == spec.name)
            return fail(Code::already_exists, "context '" + spec.name + "': is there already");
    }
    AgentProcesses processes(connection_);
    ProcessSpec process = {.name = process_name(spec.name, spec.language),
                           .with_stdin = true,
                           .log_bytes_max = limits::kContextLogBytes};
    process.command.argv = argv_of(spec);
    process.command.cwd = spec.cwd;
    process.command.user = spec.user;
    process.command.environment = spec.environment;
    process.command.unset = spec.unset;
    const auto started = TRY(processes.start(process, deadline));
    if (started.id == 0)
        return fail(Code::not_found, "context '" + spec.name + "': " + started.failure.message);
    const ProcessName id{.id = started.id, .name = {}};
    auto ready = processes.wait_log(id, {.pattern = "\"type\":\"ready\""}, deadline);
    if (!ready) {
        (void)processes.signal(id, SIGKILL, false, Clock::now() + std::chrono::seconds(10));
        return std::unexpected(std::move(ready).error().within("context '" + spec.name + "'"));
    }
    if (ready->line)
        return {};
    const std::string words = last_words(processes, id, deadline);
    (void)processes.remove(id, deadline);
    return fail(Code::unavailable, "context '" + spec.name +
                                       "': its interpreter ended with status " +
                                       std::to_string(ready->end.exit_status) + ": " + words);
}

Result<std::vector<ContextInfo>> CodeContexts::list(Deadline deadline) {
    std::vector<ContextInfo> contexts;
    for (const ProcessStatus& process : TRY(AgentProcesses(connection_).list(deadline))) {
        if (auto context = context_of(process))
            contexts.push_back(std::move(*context));
    }
    return contexts;
}

Result<ContextInfo> CodeContexts::find(const std::string& name, Deadline deadline) {
    for (ContextInfo& context : TRY(list(deadline))) {
        if (context.name == name)
            return std::move(context);
    }
    return fail(Code::not_found, "context '" + name + "': there is none");
}

Status CodeContexts::remove(const std::string& name, Deadline deadline) {
    const ProcessName process{.id = TRY(find(name, deadline)).process, .name = {}};
    AgentProcesses processes(connection_);
    Status killed = processes.signal(process, SIGKILL, true, deadline);
    // A guest without cgroup2 knows no more than the process group.
    if (!killed && killed.error().code == Code::host_unsupported)
        killed = processes.signal(process, SIGKILL, false, deadline);
    if (!killed && killed.error().code != Code::unavailable)  // it has ended meanwhile
        return killed;
    TRY(processes.wait(process, {}, deadline));
    return processes.remove(process, deadline);
}

Status CodeContexts::interrupt(const std::string& name, Deadline deadline) {
    const ProcessName process{.id = TRY(find(name, deadline)).process, .name = {}};
    return AgentProcesses(connection_).signal(process, SIGINT, false, deadline);
}

Result<RunResult> CodeContexts::run(const std::string& name, const std::string& code,
                                    const RunStreams& streams, std::chrono::milliseconds timeout,
                                    Deadline deadline) {
    const ContextInfo context = TRY(find(name, deadline));
    auto result = CodeRun(connection_, context.process, streams, timeout, deadline).run(code);
    if (!result)
        return std::unexpected(std::move(result).error().within("context '" + name + "'"));
    return result;
}

}  // namespace spore
