// spore process: programs in a sandbox that go on without us.

#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstring>

#include "hypervisor/cli/agent_link.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/environment_options.h"
#include "hypervisor/cli/process.h"

namespace spore::cli {

namespace {

using nlohmann::json;

struct ProcessOptions {
    ProcessSpec spec;
    EnvironmentOptions environment;
};

struct SignalOptions {
    std::string signal;
    bool descendants = false;
};

json to_json(const ProcessStatus& process) {
    json document = {{"id", process.id},
                     {"name", process.name},
                     {"state", process.end ? "ended" : "running"},
                     {"pid", process.pid},
                     {"argv", process.argv},
                     {"started_unix_ns", process.started_ns},
                     {"log_bytes", process.log_bytes},
                     {"log_dropped", process.log_dropped}};
    if (process.end) {
        document["ended_unix_ns"] = process.ended_ns;
        document["end"] = end_json(*process.end);
    }
    return document;
}

Status start(Context& context, const std::string& sandbox, ProcessOptions options) {
    options.spec.command.environment = TRY(variables_of(options.environment));
    auto agent = TRY(link_agent(sandbox));
    const auto started = TRY(AgentProcesses(*agent).start(options.spec, answer_deadline()));
    if (started.id == 0) {
        context.exit_status = started.failure.exit_status;
        return fail(started.failure.exit_status == kExitNotFound ? Code::not_found
                                                                 : Code::permission_denied,
                    "process: " + started.failure.message);
    }
    if (context.globals.json)
        print_json({{"id", started.id}, {"pid", started.pid}, {"name", options.spec.name}});
    else
        std::printf("%u\n", started.id);
    return {};
}

std::string in_one_line(const std::vector<std::string>& argv) {
    constexpr size_t kShown = 60;
    std::string line;
    for (const std::string& word : argv)
        line += (line.empty() ? "" : " ") + word;
    for (char& c : line) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            c = ' ';
    }
    return line.size() <= kShown ? line : line.substr(0, kShown) + "...";
}

Status list(Context& context, const std::string& sandbox) {
    auto agent = TRY(link_agent(sandbox));
    const auto processes = TRY(AgentProcesses(*agent).list(answer_deadline()));
    if (context.globals.json) {
        json document = json::array();
        for (const ProcessStatus& process : processes)
            document.push_back(to_json(process));
        print_json(document);
        return {};
    }
    Table table({"ID", "NAME", "STATE", "PID", "AGE", "COMMAND"});
    for (const ProcessStatus& process : processes) {
        table.add({std::to_string(process.id), process.name, state_words(process),
                   process.pid == 0 ? "-" : std::to_string(process.pid),
                   human_age(process.started_ns / 1'000'000), in_one_line(process.argv)});
    }
    table.print();
    return {};
}

Status show(Context& context, const ProcessWords& words) {
    auto agent = TRY(link_agent(words.sandbox));
    const auto process =
        TRY(AgentProcesses(*agent).show(ProcessName::of(words.process), answer_deadline()));
    if (context.globals.json) {
        print_json(to_json(process));
        return {};
    }
    Table table({"ID", std::to_string(process.id)});
    table.add({"NAME", process.name});
    table.add({"STATE", state_words(process)});
    table.add({"PID", process.pid == 0 ? "-" : std::to_string(process.pid)});
    table.add({"STARTED", human_age(process.started_ns / 1'000'000)});
    table.add({"LOG", human_bytes(process.log_bytes) + ", " + human_bytes(process.log_dropped) +
                          " no longer kept"});
    table.add({"COMMAND", in_one_line(process.argv)});
    table.print();
    return {};
}

// "9", "KILL" or "SIGKILL".
Result<int> parse_signal(std::string_view text) {
    int number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size() && number > 0 && number < NSIG)
        return number;
    const std::string_view name = text.starts_with("SIG") ? text.substr(3) : text;
    for (int each = 1; each < NSIG; ++each) {
        const char* known = ::sigabbrev_np(each);
        if (known != nullptr && name == known)
            return each;
    }
    return fail(Code::invalid_argument,
                "signal '" + std::string(text) + "': must be a name such as TERM, or 1 to 64");
}

Status send_signal(const ProcessWords& words, const SignalOptions& options) {
    const int number = TRY(parse_signal(options.signal));
    auto agent = TRY(link_agent(words.sandbox));
    return AgentProcesses(*agent).signal(ProcessName::of(words.process), number,
                                         options.descendants, answer_deadline());
}

Status remove(const ProcessWords& words) {
    auto agent = TRY(link_agent(words.sandbox));
    return AgentProcesses(*agent).remove(ProcessName::of(words.process), answer_deadline());
}

Status feed(const ProcessWords& words, bool keep) {
    auto agent = TRY(link_agent(words.sandbox));
    const bool taken = TRY(AgentProcesses(*agent).input(
        ProcessName::of(words.process), STDIN_FILENO, !keep, AgentConnection::Deadline::max()));
    if (!taken)
        return fail(Code::unavailable, "process '" + words.process + "': has closed its stdin");
    return {};
}

void add_start(CLI::App& group, Context& context) {
    auto sandbox = std::make_shared<std::string>();
    auto options = std::make_shared<ProcessOptions>();
    ExecRequest& request = options->spec.command;
    CLI::App* command = group.add_subcommand("start",
                                             "start a program that goes on without us; prints its "
                                             "ID\n\n"
                                             "Exit status: 126 not executable, 127 not found.");
    command->add_option("id", *sandbox, "the sandbox")->required();
    command->add_option("argv", request.argv, "the program, after --")->required();
    command->add_option("--name", options->spec.name, "to find it by; of no other that runs");
    add_environment_options(command, options->environment);
    add_unset_option(command, request.unset);
    add_clear_option(command, request.clear_environment);
    command->add_option("--workdir,-w", request.cwd, "directory to run it in");
    command->add_option("--user,-u", request.user, "who runs it: name or UID (root)");
    command->add_flag("-i,--stdin", options->spec.with_stdin,
                      "keep its standard input open, for `input`");
    command->add_option("--log-bytes", options->spec.log_bytes_max,
                        "of its output to keep, the oldest dropped (256 KiB)");
    on_chosen(command, context, [&context, sandbox, options] {
        const Status status = start(context, *sandbox, *options);
        // A program that cannot be executed has exec's exit status.
        if (!status && context.exit_status != 0) {
            report(context.globals, status.error());
            return Status{};
        }
        return status;
    });
}

void add_orders(CLI::App& group, Context& context) {
    auto words = std::make_shared<ProcessWords>();
    on_chosen(add_process_command(group, *words, "show", "one of them"), context,
              [&context, words] { return show(context, *words); });
    on_chosen(add_process_command(group, *words, "remove",
                                  "forget one that has ended, and what it wrote"),
              context, [words] { return remove(*words); });
    on_chosen(add_process_command(group, *words, "kill",
                                  "end it and all that came of it, wherever they are"),
              context, [words] { return send_signal(*words, {"KILL", true}); });

    auto options = std::make_shared<SignalOptions>();
    CLI::App* command =
        add_process_command(group, *words, "signal", "send a signal to its process group");
    command->add_option("signal", options->signal, "a name such as TERM, or a number")->required();
    command->add_flag("--descendants", options->descendants, "to all that came of it instead");
    on_chosen(command, context, [words, options] { return send_signal(*words, *options); });

    auto keep = std::make_shared<bool>(false);
    command = add_process_command(group, *words, "input", "hand over our standard input");
    command->add_flag("--keep", *keep, "leave its standard input open behind ours");
    on_chosen(command, context, [words, keep] { return feed(*words, *keep); });
}

}  // namespace

json end_json(const ExecResult& end) {
    return {{"exit_status", end.exit_status},
            {"signal", end.signal},
            {"oom_killed", end.oom_killed},
            {"cpu_us", end.cpu_us},
            {"peak_memory_bytes", end.peak_memory_bytes}};
}

std::string state_words(const ProcessStatus& process) {
    if (!process.end)
        return "running";
    return process.end->signal != 0 ? "killed by signal " + std::to_string(process.end->signal)
                                    : "exited with " + std::to_string(process.end->exit_status);
}

CLI::App* add_process_command(CLI::App& group, ProcessWords& words, const char* name,
                              const char* what) {
    CLI::App* command = group.add_subcommand(name, what);
    command->add_option("id", words.sandbox, "the sandbox")->required();
    command->add_option("process", words.process, "its ID or name")->required();
    return command;
}

void add_process(CLI::App& app, Context& context) {
    CLI::App* group = app.add_subcommand("process", "programs in a sandbox that go on without us");
    group->require_subcommand(1);
    add_start(*group, context);
    auto sandbox = std::make_shared<std::string>();
    CLI::App* command = group->add_subcommand("list", "all that run, and those that have ended");
    command->add_option("id", *sandbox, "the sandbox")->required();
    on_chosen(command, context, [&context, sandbox] { return list(context, *sandbox); });
    add_orders(*group, context);
    add_process_waits(*group, context);
}

}  // namespace spore::cli
