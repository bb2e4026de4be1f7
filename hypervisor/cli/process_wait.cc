// spore process logs, wait, wait-port, wait-log: what goes on until something happens.

#include <time.h>

#include <charconv>
#include <cstdio>

#include "hypervisor/cli/agent_link.h"
#include "hypervisor/cli/process.h"

namespace spore::cli {

namespace {

using nlohmann::json;
constexpr auto kForever = AgentConnection::Deadline::max();

struct LogOptions {
    ProcessLogRequest request;
    bool timestamps = false;
};

// "2026-11-26T17:00:00.123456Z"
std::string time_text(int64_t ns) {
    const time_t seconds = ns / 1'000'000'000;
    tm parts = {};
    ::gmtime_r(&seconds, &parts);
    char date[32], text[48];
    std::strftime(date, sizeof(date), "%FT%T", &parts);
    std::snprintf(text, sizeof(text), "%s.%06ldZ", date,
                  static_cast<long>(ns % 1'000'000'000 / 1000));
    return text;
}

// What each descriptor wrote onto ours of that number.
class LogPrinter {
  public:
    explicit LogPrinter(bool timestamps) : timestamps_(timestamps) {}

    Status print(const ProcessOutput& output) {
        if (output.dropped > 0)
            std::fprintf(stderr, "spore: at least %llu bytes before this are no longer kept\n",
                         static_cast<unsigned long long>(output.dropped));
        FILE* const to = output.fd == 1 ? stdout : stderr;
        std::string_view bytes(reinterpret_cast<const char*>(output.bytes.data()),
                               output.bytes.size());
        bool& within = within_line_[output.fd == 1 ? 0 : 1];
        while (!bytes.empty()) {
            const size_t newline = bytes.find('\n');
            const std::string_view piece =
                bytes.substr(0, newline == std::string_view::npos ? newline : newline + 1);
            if (timestamps_ && !within)
                std::fprintf(to, "%s ", time_text(output.time_ns).c_str());
            std::fwrite(piece.data(), 1, piece.size(), to);
            within = !piece.ends_with('\n');
            bytes.remove_prefix(piece.size());
        }
        if (std::fflush(to) != 0)
            return fail_errno(output.fd == 1 ? "standard output" : "standard error");
        return {};
    }

  private:
    bool timestamps_;
    bool within_line_[2] = {false, false};
};

Status print_record(const ProcessOutput& output) {
    json document = {{"sequence", output.sequence},
                     {"fd", output.fd},
                     {"time_unix_ns", output.time_ns},
                     {"dropped", output.dropped}};
    set_bytes(document, "text",
              {reinterpret_cast<const char*>(output.bytes.data()), output.bytes.size()});
    print_json_line(document);
    if (std::ferror(stdout) != 0)
        return fail(Code::unavailable, "standard output: cannot be written any more");
    return {};
}

Status logs(Context& context, const ProcessWords& words, const LogOptions& options) {
    auto agent = TRY(link_agent(words.sandbox));
    LogPrinter printer(options.timestamps);
    return AgentProcesses(*agent).logs(
        ProcessName::of(words.process), options.request,
        [&](const ProcessOutput& output) {
            return context.globals.json ? print_record(output) : printer.print(output);
        },
        kForever);
}

Status wait(Context& context, const ProcessWords& words, const std::string& limit) {
    const auto timeout =
        limit.empty() ? std::chrono::milliseconds(0) : TRY(parse_duration("timeout", limit));
    auto agent = TRY(link_agent(words.sandbox));
    const auto end =
        TRY(AgentProcesses(*agent).wait(ProcessName::of(words.process), timeout, kForever));
    context.exit_status = end.exit_status;
    if (context.globals.json)
        print_json(end_json(end));
    return {};
}

std::unexpected<Error> ended_before(const std::string& what, const ExecResult& end) {
    return fail(Code::unavailable,
                what + ": the process has ended with status " + std::to_string(end.exit_status));
}

struct PortOptions {
    std::string sandbox;
    PortQuestion question;
    std::string process;
    std::string status;
    std::string limit;
};

// "200", "200-399"
Status parse_range(std::string_view text, int& min, int& max) {
    int* const bounds[] = {&min, &max};
    const size_t hyphen = text.find('-');
    for (size_t i = 0; i < 2; ++i) {
        const std::string_view part = hyphen == std::string_view::npos ? text
                                      : i == 0                         ? text.substr(0, hyphen)
                                                                       : text.substr(hyphen + 1);
        const auto [end, error] =
            std::from_chars(part.data(), part.data() + part.size(), *bounds[i]);
        if (error != std::errc() || end != part.data() + part.size())
            return fail(Code::invalid_argument,
                        "status '" + std::string(text) + "': must be such as 200 or 200-399");
    }
    return {};
}

Status wait_port(Context& context, PortOptions options) {
    PortQuestion& question = options.question;
    if (!options.limit.empty())
        question.timeout = TRY(parse_duration("timeout", options.limit));
    if (!options.process.empty())
        question.process = ProcessName::of(options.process);
    if (!options.status.empty())
        TRY(parse_range(options.status, question.status_min, question.status_max));
    // Either asks for HTTP.
    question.http |= !question.path.empty() || !options.status.empty();
    auto agent = TRY(link_agent(options.sandbox));
    const auto end = TRY(AgentProcesses(*agent).wait_port(question, kForever));
    const std::string what = "port " + std::to_string(question.port);
    if (end)
        return ended_before(what, *end);
    if (context.globals.json)
        print_json({{"port", question.port}, {"ready", true}});
    return {};
}

struct LineOptions {
    LineQuestion question;
    std::string limit;
};

Status wait_log(Context& context, const ProcessWords& words, LineOptions options) {
    if (!options.limit.empty())
        options.question.timeout = TRY(parse_duration("timeout", options.limit));
    auto agent = TRY(link_agent(words.sandbox));
    const auto found = TRY(AgentProcesses(*agent).wait_log(ProcessName::of(words.process),
                                                           options.question, kForever));
    if (!found.line)
        return ended_before("line", found.end);
    if (!context.globals.json) {
        std::fwrite(found.line->line.data(), 1, found.line->line.size(), stdout);
        std::fputc('\n', stdout);
        return {};
    }
    json document = {{"sequence", found.line->sequence},
                     {"begin", found.line->begin},
                     {"length", found.line->length}};
    set_bytes(document, "line", found.line->line);
    print_json(document);
    return {};
}

void add_logs(CLI::App& group, Context& context) {
    auto words = std::make_shared<ProcessWords>();
    auto options = std::make_shared<LogOptions>();
    CLI::App* command = add_process_command(group, *words, "logs",
                                            "what it has written, as far as it is kept\n\n"
                                            "With --json a line for each record: text, or where it "
                                            "is no UTF-8 text_base64.");
    command->add_flag("--follow,-f", options->request.follow, "go on until it ends");
    command->add_option("--from", options->request.from, "the first sequence wanted (--json)");
    command->add_flag("--timestamps", options->timestamps, "when each line came, before it");
    on_chosen(command, context,
              [&context, words, options] { return logs(context, *words, *options); });
}

void add_wait(CLI::App& group, Context& context) {
    auto words = std::make_shared<ProcessWords>();
    auto limit = std::make_shared<std::string>();
    CLI::App* command = add_process_command(
        group, *words, "wait",
        "until it ends\n\n"
        "Exit status: its own; 128+n ended by signal n; 124 --timeout is over; 125 Spore's own\n"
        "failure.");
    command->add_option("--timeout", *limit, "wait no longer than this: 30s, 5m");
    on_chosen(command, context, [&context, words, limit]() -> Status {
        if (const Status status = wait(context, *words, *limit); !status) {
            report(context.globals, status.error());
            context.exit_status = status.error().code == Code::timeout ? kExitTimedOut : kExitSpore;
        }
        return {};
    });
}

}  // namespace

void add_process_waits(CLI::App& group, Context& context) {
    add_logs(group, context);
    add_wait(group, context);

    auto port = std::make_shared<PortOptions>();
    CLI::App* command = group.add_subcommand(
        "wait-port", "until a port of the sandbox takes connections, or answers as HTTP");
    command->add_option("id", port->sandbox, "the sandbox")->required();
    command->add_option("port", port->question.port, "1 to 65535")->required();
    command->add_flag("--http", port->question.http, "answers GET --path with a --status");
    command->add_option("--path", port->question.path, "to ask for, with HTTP (/)");
    command->add_option("--status", port->status, "that is good, with HTTP (200-399)");
    command->add_option("--process", port->process, "ID or name: fail when it ends before");
    command->add_option("--timeout", port->limit, "wait no longer than this: 30s, 5m");
    on_chosen(command, context, [&context, port] { return wait_port(context, *port); });

    auto words = std::make_shared<ProcessWords>();
    auto line = std::make_shared<LineOptions>();
    command = add_process_command(group, *words, "wait-log",
                                  "until it writes a line with a text in it; prints that line");
    command->add_option("text", line->question.pattern, "to look for")->required();
    command->add_flag("--regex,-E", line->question.expression,
                      "the text is a POSIX extended regular expression");
    command->add_option("--from", line->question.from, "the first sequence looked at");
    command->add_option("--timeout", line->limit, "wait no longer than this: 30s, 5m");
    on_chosen(command, context,
              [&context, words, line] { return wait_log(context, *words, *line); });
}

}  // namespace spore::cli
