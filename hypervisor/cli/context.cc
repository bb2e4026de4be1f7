// spore context: interpreters in a sandbox that keep their state between runs.

#include "hypervisor/sandbox/code_context.h"

#include <unistd.h>

#include <cstdio>

#include "hypervisor/cli/agent_link.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/environment_options.h"

namespace spore::cli {

namespace {

using nlohmann::json;
using End = RunResult::End;

constexpr int kExitRaised = 1;
constexpr int kExitInterrupted = 128 + 2;  // as by SIGINT

struct CreateOptions {
    std::string sandbox;
    ContextSpec spec;
    std::string language = "python";
    std::string start_limit = "5m";
    EnvironmentOptions environment;
};

struct RunOptions {
    std::string sandbox;
    std::string context;
    std::string code;
    std::string limit;
};

Status create(Context& context, CreateOptions options) {
    ContextSpec& spec = options.spec;
    spec.language = TRY(language_of(options.language));
    if (spec.name.empty())
        spec.name = options.language;
    spec.environment = TRY(variables_of(options.environment));
    const auto limit = TRY(parse_duration("start-timeout", options.start_limit));
    auto agent = TRY(link_agent(options.sandbox));
    TRY(CodeContexts(*agent).create(spec, std::chrono::steady_clock::now() + limit));
    if (context.globals.json)
        print_json({{"name", spec.name}, {"language", options.language}});
    else
        std::printf("%s\n", spec.name.c_str());
    return {};
}

Status list(Context& context, const std::string& sandbox) {
    auto agent = TRY(link_agent(sandbox));
    json document = json::array();
    Table table({"NAME", "LANGUAGE", "PROCESS"});
    for (const ContextInfo& each : TRY(CodeContexts(*agent).list(answer_deadline()))) {
        const std::string language(language_name(each.language));
        document.push_back(
            {{"name", each.name}, {"language", language}, {"process", each.process}});
        table.add({each.name, language, std::to_string(each.process)});
    }
    if (context.globals.json)
        print_json(document);
    else
        table.print();
    return {};
}

Result<std::string> read_stdin() {
    std::string text;
    char bytes[65536];
    ssize_t count = 0;
    while ((count = ::read(STDIN_FILENO, bytes, sizeof(bytes))) != 0) {
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail_errno("standard input");
        text.append(bytes, static_cast<size_t>(count));
    }
    return text;
}

const char* end_name(End end) {
    switch (end) {
        case End::ok:
            return "ok";
        case End::error:
            return "error";
        case End::interrupted:
            return "interrupted";
        case End::timed_out:
            return "timed_out";
        case End::lost:
            return "lost";
    }
    return "lost";
}

int exit_status_of(End end) {
    switch (end) {
        case End::ok:
            return 0;
        case End::error:
            return kExitRaised;
        case End::interrupted:
            return kExitInterrupted;
        case End::timed_out:
            return kExitTimedOut;
        case End::lost:
            return kExitSpore;
    }
    return kExitSpore;
}

// One of several forms for a person: text, or what there is instead.
void print_rich(const RichData& data) {
    const auto text = data.find("text/plain");
    if (text != data.end()) {
        std::printf("%s\n", text->second.c_str());
        return;
    }
    for (const auto& [mime, content] : data)
        std::printf("[%s, %zu bytes as sent]\n", mime.c_str(), content.size());
}

json result_json(const RunResult& result, const std::string& out, const std::string& err) {
    json document = {{"status", end_name(result.end)},
                     {"context_lost", result.context_lost},
                     {"truncated", result.truncated},
                     {"displays", result.displays},
                     {"result", nullptr},
                     {"error", nullptr}};
    set_bytes(document, "stdout", out);
    set_bytes(document, "stderr", err);
    if (result.result)
        document["result"] = *result.result;
    if (result.error) {
        document["error"] = {{"name", result.error->name},
                             {"value", result.error->value},
                             {"traceback", result.error->traceback}};
    }
    return document;
}

void tell_end(const RunResult& result, const RunOptions& options) {
    if (result.result)
        print_rich(*result.result);
    std::fflush(stdout);
    if (result.error)
        std::fprintf(stderr, "%s", result.error->traceback.c_str());
    if (result.truncated)
        std::fprintf(stderr, "spore: context: it wrote or showed more than is handed on\n");
    if (result.end == End::timed_out)
        std::fprintf(stderr, "spore: context '%s': timed out after %s\n", options.context.c_str(),
                     options.limit.c_str());
    if (result.context_lost)
        std::fprintf(stderr, "spore: context '%s': its interpreter is gone\n",
                     options.context.c_str());
}

Status run(Context& context, RunOptions options) {
    const auto timeout = options.limit.empty() ? std::chrono::milliseconds(0)
                                               : TRY(parse_duration("timeout", options.limit));
    if (options.code == "-")
        options.code = TRY(read_stdin());
    auto agent = TRY(link_agent(options.sandbox));
    const bool as_json = context.globals.json;
    std::string out, err;
    const auto sink = [&](FILE* file, std::string& captured) {
        return [&captured, file, as_json](std::string_view bytes) -> Status {
            if (as_json) {
                captured += bytes;
                return {};
            }
            std::fwrite(bytes.data(), 1, bytes.size(), file);
            return std::fflush(file) == 0 ? Status{} : fail_errno("our output");
        };
    };
    RunStreams streams = {.on_stdout = sink(stdout, out), .on_stderr = sink(stderr, err)};
    if (!as_json) {
        streams.on_display = [](const RichData& data) -> Status {
            print_rich(data);
            return {};
        };
    }
    const auto result = TRY(CodeContexts(*agent).run(options.context, options.code, streams,
                                                     timeout, AgentConnection::Deadline::max()));
    context.exit_status = exit_status_of(result.end);
    if (as_json)
        print_json(result_json(result, out, err));
    else
        tell_end(result, options);
    return {};
}

void add_create(CLI::App& group, Context& context) {
    auto options = std::make_shared<CreateOptions>();
    CLI::App* command = group.add_subcommand("create", "start an interpreter; prints its name");
    command->add_option("id", options->sandbox, "the sandbox")->required();
    command->add_option("name", options->spec.name, "its name (the language's)");
    command->add_option("--language,-l", options->language, "python or javascript (python)");
    command->add_option("--program", options->spec.program,
                        "the interpreter (python3 or node, by PATH)");
    add_environment_options(command, options->environment);
    add_unset_option(command, options->spec.unset);
    command->add_option("--workdir,-w", options->spec.cwd, "directory to run it in");
    command->add_option("--user,-u", options->spec.user, "who runs it: name or UID (root)");
    command->add_option("--start-timeout", options->start_limit,
                        "kill it if it takes no code after this long (5m)");
    on_chosen(command, context, [&context, options] { return create(context, *options); });
}

void add_run_code(CLI::App& group, Context& context) {
    auto options = std::make_shared<RunOptions>();
    CLI::App* command = group.add_subcommand(
        "run",
        "run code; prints what it writes, shows, and the value of its last expression\n\n"
        "Exit status: 0; 1 it raised an error; 124 timed out; 125 Spore's own failure, or the\n"
        "interpreter is gone; 130 interrupted.");
    command->add_option("id", options->sandbox, "the sandbox")->required();
    command->add_option("context", options->context, "its name")->required();
    command->add_option("code", options->code, "the code; -: from standard input")->required();
    command->add_option("--timeout", options->limit,
                        "interrupt it after this long, and kill the context if that does not help");
    on_chosen(command, context, [&context, options]() -> Status {
        if (const Status status = run(context, *options); !status) {
            report(context.globals, status.error());
            context.exit_status = kExitSpore;
        }
        return {};
    });
}

}  // namespace

void add_context(CLI::App& app, Context& context) {
    CLI::App* group =
        app.add_subcommand("context", "interpreters in a sandbox that keep their state");
    group->require_subcommand(1);
    add_create(*group, context);
    auto options = std::make_shared<RunOptions>();
    CLI::App* command = group->add_subcommand("list", "all contexts of a sandbox");
    command->add_option("id", options->sandbox, "the sandbox")->required();
    on_chosen(command, context, [&context, options] { return list(context, options->sandbox); });
    add_run_code(*group, context);
    const auto add_order = [&](const char* name, const char* what, auto order) {
        CLI::App* each = group->add_subcommand(name, what);
        each->add_option("id", options->sandbox, "the sandbox")->required();
        each->add_option("context", options->context, "its name")->required();
        on_chosen(each, context, [options, order]() -> Status {
            auto agent = TRY(link_agent(options->sandbox));
            return (CodeContexts(*agent).*order)(options->context, answer_deadline());
        });
    };
    add_order("interrupt", "stop what it runs now", &CodeContexts::interrupt);
    add_order("delete", "end it, and all that its code has started", &CodeContexts::remove);
}

}  // namespace spore::cli
