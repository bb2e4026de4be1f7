// spore cp: files and trees between this host and a sandbox, and between sandboxes.

#include <unistd.h>

#include <cinttypes>

#include "hypervisor/cli/agent_link.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/file_output.h"
#include "hypervisor/sandbox/agent_copy.h"

namespace spore::cli {

namespace {

struct CopyWords {
    std::string from, to, user;
};

// "ID:PATH" or a path of this host, which may have a ':' behind a '/': "./a:b".
struct Side {
    std::string id;  // empty: this host
    std::string path;
};

Side parse_side(const std::string& word) {
    const size_t colon = word.find(':');
    if (colon == std::string::npos || colon == 0 || word.find('/') < colon)
        return {"", word};
    return {word.substr(0, colon), word.substr(colon + 1)};
}

nlohmann::json counts_json(const CopyCounts& counts) {
    return {
        {"bytes", counts.bytes}, {"files", counts.files},     {"directories", counts.directories},
        {"links", counts.links}, {"skipped", counts.skipped}, {"separate", counts.separate}};
}

// `-`: standard input or output.
Result<CopyCounts> copy_stream(const std::shared_ptr<AgentConnection>& agent, const Side& from,
                               const Side& to, const CopyOptions& options) {
    AgentFiles files(agent);
    CopyCounts counts = {.files = 1};
    if (from.id.empty()) {
        const FileWriteSpec spec = {.path = to.path, .parents = true, .user = options.user};
        counts.bytes = TRY(files.write(spec, STDIN_FILENO, kNever));
        return counts;
    }
    TRY(files.read(
        {.path = from.path},
        [&](std::span<const std::byte> bytes) -> Status {
            counts.bytes += bytes.size();
            options.on_progress(counts);
            return write_out(STDOUT_FILENO, bytes);
        },
        kNever));
    return counts;
}

Status copy(Context& context, const CopyWords& words) {
    const Side from = parse_side(words.from), to = parse_side(words.to);
    if (from.id.empty() && to.id.empty()) {
        return fail(Code::invalid_argument, "'" + words.from + "' and '" + words.to +
                                                "': one of them must be ID:PATH, of a sandbox");
    }
    const bool across = !from.id.empty() && !to.id.empty();
    auto agent = TRY(link_agent(from.id.empty() ? to.id : from.id));
    const bool stream = !across && (from.id.empty() ? from.path : to.path) == "-";
    ByteProgress progress(context.globals, stream && to.id.empty());
    CopyOptions options;
    options.user = words.user;
    options.on_progress = [&](const CopyCounts& counts) {
        progress.show(counts.bytes, std::to_string(counts.files) + " files, ");
    };
    options.on_skipped = [](const std::string& path, const std::string& why) {
        std::fprintf(stderr, "spore: left out '%s': %s\n", printable(path).c_str(), why.c_str());
    };
    std::string why_separate;
    options.on_separate = [&](const std::string&, const std::string& why) { why_separate = why; };
    const CopyCounts counts =
        TRY(across   ? copy_across(agent, from.path, TRY(link_agent(to.id)), to.path, options)
            : stream ? copy_stream(agent, from, to, options)
            : from.id.empty() ? copy_in(agent, from.path, to.path, options)
                              : copy_out(agent, from.path, to.path, options));
    if (counts.separate > 0) {
        std::fprintf(stderr,
                     "spore: further names of a file that became files of their own: %" PRIu64
                     ": %s\n",
                     counts.separate, why_separate.c_str());
    }
    if (context.globals.json && !(stream && to.id.empty()))
        print_json(counts_json(counts));
    return {};
}

}  // namespace

void add_cp(CLI::App& app, Context& context) {
    auto words = std::make_shared<CopyWords>();
    CLI::App* command = app.add_subcommand(
        "cp",
        "copy a file or a tree, one side ID:PATH, or both\n\n"
        "Modes, times and links of both kinds are kept, owners are not. A directory as DST gets "
        "SRC\n"
        "under its name; SRC/. is what is in it. `-` is standard input or output.");
    command->add_option("src", words->from, "ID:PATH or a path of this host")->required();
    command->add_option("dst", words->to, "a path of this host or ID:PATH")->required();
    command->add_option("--user,-u", words->user, "owner of what is new in the sandbox");
    on_chosen(command, context, [&context, words] { return copy(context, *words); });
}

}  // namespace spore::cli
