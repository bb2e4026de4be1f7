// spore file: files in a sandbox, one at a time.

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <map>

#include "hypervisor/cli/agent_link.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/file_output.h"

namespace spore::cli {

namespace {

constexpr size_t kJsonBytesMax = 16 * limits::kMiB;  // of a file in one JSON document

struct FileOptions {
    std::string id, path, other, user, mode, limit;
    FileReadSpec read;
    FileWriteSpec write;
    FileListSpec list;
    bool create = false, append = false, in_place = false;
    bool follow = false, recursive = false, replace = false, parents = false, null = false,
         hard = false;
    uint64_t count = 0;
};

Result<AgentFiles> files_of(const FileOptions& options) {
    return AgentFiles(TRY(link_agent(options.id)));
}

// "644", "0755".
Result<uint32_t> parse_mode(const std::string& text) {
    uint32_t mode = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), mode, 8);
    if (error != std::errc() || end != text.data() + text.size() || mode > 07777)
        return fail(Code::invalid_argument,
                    "mode '" + text + "': must be octal and at most 7777, such as 644");
    return mode;
}

Status read_file(Context& context, const FileOptions& options) {
    auto files = TRY(files_of(options));
    FileReadSpec spec = options.read;
    spec.path = options.path;
    if (!context.globals.json) {
        ByteProgress progress(context.globals, true);
        TRY(files.read(
            spec,
            [&](std::span<const std::byte> bytes) -> Status {
                progress.add(bytes.size());
                return write_out(STDOUT_FILENO, bytes);
            },
            kNever));
        return {};
    }
    std::string content;
    const FileInfo info = TRY(files.read(
        spec,
        [&](std::span<const std::byte> bytes) -> Status {
            if (content.size() + bytes.size() > kJsonBytesMax)
                return fail(Code::resource_exhausted,
                            "file '" + spec.path + "': is above " + human_bytes(kJsonBytesMax) +
                                ", too large for a JSON document (read it without --json)");
            content.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            return {};
        },
        kNever));
    nlohmann::json document = to_json(info);
    set_bytes(document, "content", content);
    print_json(document);
    return {};
}

Status write_file(Context& context, const FileOptions& options) {
    FileWriteSpec spec = options.write;
    spec.path = options.path;
    spec.user = options.user;
    spec.parents = options.parents;
    if (options.create + options.append + options.in_place > 1)
        return fail(Code::invalid_argument, "--create, --append and --offset: at most one of them");
    spec.how = options.create     ? FileWriteSpec::How::create
               : options.append   ? FileWriteSpec::How::append
               : options.in_place ? FileWriteSpec::How::in_place
                                  : FileWriteSpec::How::replace;
    if (!options.mode.empty())
        spec.mode = TRY(parse_mode(options.mode));
    auto files = TRY(files_of(options));
    const uint64_t size = TRY(files.write(spec, STDIN_FILENO, kNever));
    if (context.globals.json) {
        nlohmann::json document;
        set_bytes(document, "path", spec.path);
        document["size"] = size;
        print_json(document);
    }
    return {};
}

Status list_files(Context& context, const FileOptions& options) {
    auto files = TRY(files_of(options));
    FileListSpec spec = options.list;
    spec.path = options.path;
    spec.recursive = options.recursive;
    nlohmann::json all = nlohmann::json::array();
    Table table({"MODE", "OWNER", "SIZE", "MODIFIED", "NAME"});
    const auto visit = [&](FileInfo&& info) -> Status {
        if (context.globals.json) {
            all.push_back(to_json(info));
        } else if (options.null) {
            const std::string name = info.path + '\0';
            return write_out(STDOUT_FILENO, std::as_bytes(std::span(name)));
        } else {
            table.add(row_of(info));
        }
        return {};
    };
    const bool more = TRY(files.list(spec, visit, kNever));
    if (context.globals.json)
        print_json({{"entries", all}, {"truncated", more}});
    else if (!options.null)
        table.print();
    if (more && !context.globals.json)
        std::fprintf(stderr, "spore: '%s': there is more\n", printable(options.path).c_str());
    return {};
}

Status stat_file(Context& context, const FileOptions& options) {
    auto files = TRY(files_of(options));
    const FileInfo info = TRY(files.stat(options.path, options.follow, kNever));
    if (context.globals.json)
        print_json(to_json(info));
    else
        print_info(info);
    return {};
}

Status file_exists(Context& context, const FileOptions& options) {
    auto files = TRY(files_of(options));
    const bool exists = TRY(files.exists(options.path, kNever));
    if (context.globals.json)
        print_json({{"exists", exists}});
    if (!exists)
        context.exit_status = exit_status(Code::not_found);
    return {};
}

// What has no answer but that it was done.
Status done(const Context& context, const Status& status) {
    if (status && context.globals.json)
        print_json({{"done", true}});
    return status;
}

Status set_attributes(const FileOptions& options) {
    FileAttributes attributes = {.path = options.path, .user = options.user};
    if (!options.mode.empty())
        attributes.mode = TRY(parse_mode(options.mode));
    auto files = TRY(files_of(options));
    return files.set_attributes(attributes, kNever);
}

Status watch_file(Context& context, const FileOptions& options) {
    auto until = kNever;
    if (!options.limit.empty())
        until = std::chrono::steady_clock::now() + TRY(parse_duration("timeout", options.limit));
    auto files = TRY(files_of(options));
    auto watch = TRY(files.watch(options.path, options.recursive, until));
    // Whoever reads us may go on to make changes now.
    if (context.globals.json)
        print_json_line({{"event", "watching"}});
    else
        print_line("watching");
    for (uint64_t seen = 0; options.count == 0 || seen < options.count;) {
        const auto changes = watch->next(until);
        if (!changes && changes.error().code == Code::timeout && until != kNever)
            return {};
        if (!changes)
            return std::unexpected(changes.error());
        if (changes->empty())
            return {};
        for (const FileChange& change : *changes) {
            if (context.globals.json)
                print_json_line(to_json(change));
            else
                print_line(line_of(change));
            if (++seen == options.count)
                break;
        }
    }
    return {};
}

// A subcommand of `file` with the sandbox and the path that all have.
CLI::App* add(CLI::App* file, const char* name, const char* words, FileOptions& options) {
    CLI::App* command = file->add_subcommand(name, words);
    command->add_option("id", options.id, "the sandbox")->required();
    command->add_option("path", options.path, "in it, from /")->required();
    return command;
}

void add_reading(CLI::App* file, Context& context, const std::shared_ptr<FileOptions>& options) {
    CLI::App* read = add(file, "read", "a file's bytes to standard output", *options);
    read->add_option("--offset", options->read.offset, "from this byte on");
    read->add_option("--length", options->read.length, "at most so many bytes");
    on_chosen(read, context, [&context, options] { return read_file(context, *options); });

    CLI::App* list = add(file, "list", "what is in a directory", *options);
    list->add_flag("-r,--recursive", options->recursive, "and in those below it");
    list->add_flag("!--no-hidden", options->list.hidden, "leave out names that begin with a dot");
    list->add_option("--max", options->list.entries_max, "at most so many");
    list->add_flag("-0,--null", options->null, "names alone, each ended by a NUL, byte for byte");
    on_chosen(list, context, [&context, options] { return list_files(context, *options); });

    CLI::App* stat = add(file, "stat", "kind, size, mode, owner, time of a file", *options);
    stat->add_flag("-L,--follow", options->follow, "of what a symbolic link leads to");
    on_chosen(stat, context, [&context, options] { return stat_file(context, *options); });

    CLI::App* exists =
        add(file, "exists", "exit status 0 if there is something, 66 if not", *options);
    on_chosen(exists, context, [&context, options] { return file_exists(context, *options); });

    CLI::App* watch = add(file, "watch", "a line for each change, until Ctrl-C", *options);
    watch->add_flag("-r,--recursive", options->recursive, "below it too");
    watch->add_option("--count", options->count, "end after so many");
    watch->add_option("--timeout", options->limit, "end after this long: 30s, 5m");
    on_chosen(watch, context, [&context, options] { return watch_file(context, *options); });
}

void add_writing(CLI::App* file, Context& context, const std::shared_ptr<FileOptions>& options) {
    CLI::App* write =
        add(file, "write", "standard input into a file, which is replaced when all of it is there",
            *options);
    write->add_flag("--create", options->create, "only if there is nothing yet");
    write->add_flag("--append", options->append, "to what is there, each piece at once");
    write->add_option("--offset", options->write.offset, "into what is there, from this byte on")
        ->each([options](const std::string&) { options->in_place = true; });
    write->add_option("--mode", options->mode, "octal, of a new file (as it was, else 644)");
    write->add_option("--user,-u", options->user, "owner of what is new: name or UID");
    write->add_flag("-p,--parents", options->parents, "make the directories on the way");
    write->add_flag("--sync", options->write.sync, "wait until it is on the sandbox's disk");
    on_chosen(write, context, [&context, options] { return write_file(context, *options); });

    CLI::App* attributes = add(file, "chmod", "mode or owner of what is there", *options);
    attributes->add_option("--mode", options->mode, "octal");
    attributes->add_option("--user,-u", options->user, "name or UID, with :GROUP if wanted");
    on_chosen(attributes, context,
              [&context, options] { return done(context, set_attributes(*options)); });
}

void add_places(CLI::App* file, Context& context, const std::shared_ptr<FileOptions>& options) {
    CLI::App* remove = add(file, "remove", "a file, a link or an empty directory", *options);
    remove->add_flag("-r,--recursive", options->recursive, "a directory with all that is in it");
    on_chosen(remove, context, [&context, options]() -> Status {
        auto files = TRY(files_of(*options));
        return done(context, files.remove(options->path, options->recursive, kNever));
    });

    CLI::App* move = add(file, "move", "give another name, in one step", *options);
    move->add_option("to", options->other, "its new path")->required();
    move->add_flag("--replace", options->replace, "what has that name");
    on_chosen(move, context, [&context, options]() -> Status {
        auto files = TRY(files_of(*options));
        return done(context, files.move(options->path, options->other, options->replace, kNever));
    });

    CLI::App* mkdir = add(file, "mkdir", "make a directory", *options);
    mkdir->add_flag("-p,--parents", options->parents,
                    "and those on the way; one that is there is none");
    mkdir->add_option("--mode", options->mode, "octal (755)");
    mkdir->add_option("--user,-u", options->user, "owner of what is new: name or UID");
    on_chosen(mkdir, context, [&context, options]() -> Status {
        const uint32_t mode = options->mode.empty() ? 0 : TRY(parse_mode(options->mode));
        auto files = TRY(files_of(*options));
        return done(context, files.make_directory(options->path, mode, options->parents,
                                                  options->user, kNever));
    });

    CLI::App* link = add(file, "link", "make a symbolic or hard link", *options);
    link->add_option("target", options->other,
                     "where it leads, as it is written; with --hard a file")
        ->required();
    link->add_flag("--hard", options->hard, "another name of a plain file");
    link->add_flag("--replace", options->replace,
                   "what is there: another link, or with --hard a file too");
    on_chosen(link, context, [&context, options]() -> Status {
        auto files = TRY(files_of(*options));
        const auto make = options->hard ? &AgentFiles::make_hard_link : &AgentFiles::make_symlink;
        return done(context,
                    (files.*make)(options->path, options->other, options->replace, kNever));
    });
}

}  // namespace

void add_file(CLI::App& app, Context& context) {
    auto options = std::make_shared<FileOptions>();
    CLI::App* file =
        app.add_subcommand("file", "files in a sandbox: no name or content meets a shell");
    file->require_subcommand(1);
    add_reading(file, context, options);
    add_writing(file, context, options);
    add_places(file, context, options);
}

}  // namespace spore::cli
