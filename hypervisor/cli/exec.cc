// spore exec: one command in a sandbox, its streams ours, its exit status ours.

#include <unistd.h>

#include "hypervisor/cli/commands.h"
#include "hypervisor/sandbox/exec_capture.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::cli {

namespace {

struct ExecOptions {
    std::string id;
    std::vector<std::string> argv;
    std::vector<std::string> environment;
    std::string directory;
    std::string user;
    std::string limit;
    bool with_stdin = false;
    bool shell = false;
};

bool write_all(int fd, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        ssize_t written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return true;
}

ExecStreams::Sink pass_on(int fd, const char* name) {
    return [fd, name](std::span<const std::byte> bytes) -> Status {
        if (!write_all(fd, bytes))
            return fail_errno(name);
        return {};
    };
}

Result<ExecRequest> make_request(const ExecOptions& options) {
    ExecRequest request;
    if (options.shell) {
        std::string line;
        for (const std::string& word : options.argv)
            line += (line.empty() ? "" : " ") + word;
        request.argv = {"/bin/sh", "-c", line};
    } else {
        request.argv = options.argv;
    }
    for (const auto& [name, value] : TRY(parse_pairs("env", options.environment)))
        request.environment.emplace_back(name, value);
    request.cwd = options.directory;
    request.user = options.user;
    if (!options.limit.empty())
        request.timeout = TRY(parse_duration("timeout", options.limit));
    return request;
}

Status run_command(Context& context, const ExecOptions& options) {
    auto home = TRY(Home::open());
    auto request = TRY(make_request(options));
    auto sandbox = TRY(find_sandbox(home, options.id));
    if (!sandbox.alive)
        return fail(Code::unavailable,
                    "sandbox '" + options.id + "': its VM has ended; only destroy is left");
    auto begun = std::chrono::steady_clock::now();
    auto agent =
        TRY(connect_agent(run_directory(home, options.id), begun + std::chrono::seconds(20)));
    bool json = context.globals.json;
    ExecCapture capture;  // with --json; what is above its bound is counted, not kept
    ExecStreams streams = json ? capture.streams() : ExecStreams{};
    if (!json) {
        streams.on_stdout = pass_on(STDOUT_FILENO, "standard output");
        streams.on_stderr = pass_on(STDERR_FILENO, "standard error");
    }
    if (options.with_stdin)
        streams.stdin_fd = STDIN_FILENO;
    auto result = TRY(agent.exec(request, streams, std::chrono::steady_clock::time_point::max()));
    context.exit_status = result.exit_status;
    bool timed_out = result.end == ExecResult::End::timed_out;
    if (result.end == ExecResult::End::not_started)
        std::fprintf(stderr, "spore: command: %s\n", result.message.c_str());
    if (timed_out)
        std::fprintf(stderr, "spore: command: timed out after %s\n", options.limit.c_str());
    if (!json)
        return {};
    print_json({{"exit_status", result.exit_status},
                {"signal", result.signal},
                {"timed_out", timed_out},
                {"stdout", capture.out().bytes},
                {"stderr", capture.err().bytes},
                {"stdout_bytes", capture.out().total},
                {"stderr_bytes", capture.err().total},
                {"truncated", capture.out().truncated() || capture.err().truncated()},
                {"cpu_us", result.cpu_us},
                {"peak_memory_bytes", result.peak_memory_bytes},
                {"duration_us", std::chrono::duration_cast<std::chrono::microseconds>(
                                    std::chrono::steady_clock::now() - begun)
                                    .count()}});
    return {};
}

}  // namespace

void add_exec(CLI::App& app, Context& context) {
    auto options = std::make_shared<ExecOptions>();
    CLI::App* command = app.add_subcommand(
        "exec",
        "run a command in a sandbox\n\n"
        "Exit status: the command's own; 128+n ended by signal n; 124 timed out; 125 Spore's own\n"
        "failure; 126 not executable; 127 not found.");
    command->add_option("id", options->id, "the sandbox")->required();
    command->add_option("argv", options->argv, "the command, after --")->required();
    command->add_option("--env,-e", options->environment, "NAME=VALUE; repeatable")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command->add_option("--workdir,-w", options->directory, "directory to run it in");
    command->add_option("--user,-u", options->user, "who runs it: name or UID (root)");
    command->add_option("--timeout", options->limit, "kill it after this long: 30s, 5m");
    command->add_flag("-i,--stdin", options->with_stdin, "hand over our standard input");
    command->add_flag("--shell", options->shell, "the words are one line for /bin/sh");
    on_chosen(command, context, [&context, options]() -> Status {
        Status status = run_command(context, *options);
        if (!status) {
            report(context.globals, status.error());
            context.exit_status = kExitSpore;
        }
        return {};
    });
}

}  // namespace spore::cli
