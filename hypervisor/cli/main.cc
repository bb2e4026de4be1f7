// The spore binary: parses the command line (shared/cli.md is the contract) and runs one command.

#include <algorithm>
#include <charconv>
#include <csignal>

#include "hypervisor/cli/commands.h"

namespace spore::cli {

void on_chosen(CLI::App* command, Context& context, std::function<Status()> body) {
    command->add_flag("--json", context.globals.json, "one JSON document on standard output");
    command->add_flag("-q,--quiet", context.globals.quiet, "no progress on standard error");
    command->callback([&context, body = std::move(body)] {
        Status status = body();
        if (!status)
            context.exit_status = report(context.globals, status.error());
    });
}

Result<std::map<std::string, std::string>> parse_pairs(std::string_view what,
                                                       const std::vector<std::string>& words) {
    std::map<std::string, std::string> pairs;
    for (const std::string& word : words) {
        size_t equals = word.find('=');
        if (equals == std::string::npos || equals == 0)
            return fail(Code::invalid_argument,
                        std::string(what) + " '" + word + "': must be NAME=VALUE");
        pairs[word.substr(0, equals)] = word.substr(equals + 1);
    }
    return pairs;
}

Result<std::chrono::milliseconds> parse_duration(std::string_view what, std::string_view text) {
    int64_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
    int64_t factor = unit == "ms"  ? 1
                     : unit == "s" ? 1000
                     : unit == "m" ? 60'000
                     : unit == "h" ? 3'600'000
                                   : 0;
    if (error != std::errc() || factor == 0 || number < 0 || number > 1'000'000'000)
        return fail(Code::invalid_argument,
                    std::string(what) + " '" + std::string(text) +
                        "': must be a number and ms, s, m or h, such as 30s");
    return std::chrono::milliseconds(number * factor);
}

namespace {

constexpr const char* kDescription =
    "Spore runs untrusted code, each user's in a Linux microVM of its own, cloned from a "
    "snapshot.\n"
    "\n"
    "  spore doctor                                     what this host can do\n"
    "  spore image build debian                         make a guest image from Debian's packages\n"
    "  spore template create py --image debian          boot it once, and snapshot it\n"
    "  spore create my-box --template py                clone it: a sandbox\n"
    "  spore exec my-box -- python3 -c 'print(6*7)'     run a command in it\n"
    "  spore destroy my-box                             gone, with all that was in it\n";

struct Commands {
    std::string_view names;  // a space between
    void (*add)(CLI::App& app, Context& context);
};
// In the order of --help.
constexpr Commands kCommands[] = {
    {"doctor", add_doctor},
    {"run", add_run},
    {"image", add_image},
    {"template", add_template},
    {"create list restart destroy", add_sandbox},
    {"network-keeper network-resolver", add_network},
    {"update", add_update},
    {"stats", add_stats},
    {"pool", add_pool},
    {"process", add_process},
    {"context", add_context},
    {"exec", add_exec},
    {"shell", add_shell},
    {"file", add_file},
    {"cp", add_cp},
    {"port", add_port},
    {"session", add_session},
};

bool has_word(std::string_view words, std::string_view word) {
    size_t at = words.find(word);
    return !word.empty() && at != words.npos && (at == 0 || words[at - 1] == ' ') &&
           (at + word.size() == words.size() || words[at + word.size()] == ' ');
}

// Those that `first` is one of, which is what most need; else all: making them takes longer than
// many a command.
void add_commands(CLI::App& app, Context& context, std::string_view first) {
    auto is_it = [&](const Commands& commands) { return has_word(commands.names, first); };
    bool known = std::ranges::any_of(kCommands, is_it);
    for (const Commands& commands : kCommands) {
        if (!known || is_it(commands))
            commands.add(app, context);
    }
}

int run(int argc, char** argv) {
    Context context;
    CLI::App app{kDescription, "spore"};
    app.require_subcommand(1);
    app.set_version_flag("--version", std::string("spore ") + SPORE_VERSION);
    app.get_formatter()->column_width(34);
    add_commands(app, context, argc > 1 ? argv[1] : "");
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& success) {
        return app.exit(success);  // --help, --version
    } catch (const CLI::ParseError& error) {
        for (int index = 1; index < argc; index++)
            context.globals.json |= std::string_view(argv[index]) == "--json";
        std::string what = error.what();
        auto unknown = app.remaining(true);
        if (what == "A subcommand is required" && !unknown.empty())
            what = "command '" + unknown.front() + "': is not known";
        return report(context.globals, {Code::invalid_argument, what + " (see --help)"});
    } catch (const std::exception& exception) {  // want of memory, or a library's
        return report(context.globals,
                      {Code::internal, std::string("exception: ") + exception.what()});
    }
    return context.exit_status;
}

}  // namespace

}  // namespace spore::cli

int main(int argc, char** argv) {
    std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error to report, not a death
    return spore::cli::run(argc, argv);
}
