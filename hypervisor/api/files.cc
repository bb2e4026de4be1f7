#include <spore/files.h>

#include <algorithm>

#include "hypervisor/api/files_impl.h"
#include "hypervisor/sandbox/agent_files.h"

namespace spore {
inline namespace v1 {

struct Watch::Impl {
    std::shared_ptr<AgentConnection> agent;  // ends with its last user
    std::unique_ptr<AgentWatch> watch;
};

namespace {

// Runs `body` with the files of the sandbox's agent.
template <typename Body>
auto with_files(Sandbox::Impl& sandbox, const Call& call, Body body)
    -> decltype(body(std::declval<const AgentFiles&>())) {
    return with_agent(sandbox, call, [&](AgentConnection&) -> decltype(body(AgentFiles(nullptr))) {
        return body(AgentFiles(TRY(sandbox.agent(call))));
    });
}

// The words are the same in the same order.
static_assert(static_cast<int>(FileKind::character_device) ==
              static_cast<int>(Files::Kind::character_device));
static_assert(static_cast<int>(FileKind::symlink) == static_cast<int>(Files::Kind::symlink));
static_assert(static_cast<int>(FileChange::Kind::gone) ==
              static_cast<int>(Watch::Change::Kind::gone));
static_assert(static_cast<int>(FileChange::Kind::moved) ==
              static_cast<int>(Watch::Change::Kind::moved));
static_assert(static_cast<int>(FileWriteSpec::How::in_place) ==
              static_cast<int>(WriteOptions::How::in_place));
static_assert(static_cast<int>(FileWriteSpec::How::append) ==
              static_cast<int>(WriteOptions::How::append));

Files::Entry entry_of(FileInfo&& info) {
    Files::Entry entry;
    entry.path = std::move(info.path);
    entry.kind = static_cast<Files::Kind>(info.kind);
    entry.size = info.size;
    entry.mode = info.mode;
    entry.uid = info.uid;
    entry.gid = info.gid;
    entry.modified = std::chrono::system_clock::time_point(
        std::chrono::duration_cast<std::chrono::system_clock::duration>(
            std::chrono::nanoseconds(info.mtime_ns)));
    entry.target = std::move(info.target);
    entry.links = info.links;
    entry.inode = info.inode;
    entry.device = info.device;
    return entry;
}

FileWriteSpec write_spec(const std::string& path, const WriteOptions& options) {
    return {.path = path,
            .how = static_cast<FileWriteSpec::How>(options.how),
            .mode = options.mode,
            .parents = options.parents,
            .user = options.user,
            .offset = options.offset,
            .sync = options.sync};
}

}  // namespace

Files Sandbox::files() const {
    return Files(std::make_shared<const Files::Impl>(Files::Impl{impl_}));
}

Result<Files::Entry> Files::stat(const std::string& path, bool follow, const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) -> Result<Entry> {
            return entry_of(TRY(files.stat(path, follow, call.deadline)));
        });
    });
}

Result<bool> Files::exists(const std::string& path, const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.exists(path, call.deadline);
        });
    });
}

Result<std::string> Files::read(const std::string& path, const Call& call, size_t bytes_max) const {
    return guarded([&]() -> Result<std::string> {
        std::string content;
        const Sink keep = [&](std::span<const std::byte> bytes) -> Status {
            if (bytes.size() > bytes_max - content.size())
                return fail(Code::resource_exhausted,
                            path + ": is above " + std::to_string(bytes_max) + " bytes");
            content.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            return {};
        };
        TRY(read(path, keep, 0, 0, call));
        return content;
    });
}

Result<Files::Entry> Files::read(const std::string& path, const Sink& sink, uint64_t offset,
                                 uint64_t length, const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) -> Result<Entry> {
            return entry_of(TRY(files.read({.path = path, .offset = offset, .length = length}, sink,
                                           call.deadline)));
        });
    });
}

Result<uint64_t> Files::write(const std::string& path, std::string_view bytes,
                              const WriteOptions& options, const Call& call) const {
    const Source source = [left = std::as_bytes(std::span(bytes))](
                              std::span<std::byte> buffer) mutable -> Result<size_t> {
        const size_t count = std::min(left.size(), buffer.size());
        std::ranges::copy(left.first(count), buffer.begin());
        left = left.subspan(count);
        return count;
    };
    return write(path, source, options, call);
}

Result<uint64_t> Files::write(const std::string& path, const Source& source,
                              const WriteOptions& options, const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.write(write_spec(path, options), source, call.deadline);
        });
    });
}

Result<std::vector<Files::Entry>> Files::list(const std::string& path, bool recursive,
                                              const Call& call, size_t entries_max) const {
    return guarded([&] {
        return with_files(
            *impl_->sandbox, call, [&](const AgentFiles& files) -> Result<std::vector<Entry>> {
                std::vector<Entry> entries;
                const FileListSpec spec = {.path = path, .recursive = recursive};
                const AgentFiles::Visit visit = [&](FileInfo&& info) -> Status {
                    if (entries.size() >= entries_max)
                        return fail(
                            Code::resource_exhausted,
                            path + ": has more than " + std::to_string(entries_max) + " entries");
                    entries.push_back(entry_of(std::move(info)));
                    return {};
                };
                TRY(files.list(spec, visit, call.deadline));
                return entries;
            });
    });
}

Status Files::remove(const std::string& path, bool recursive, const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.remove(path, recursive, call.deadline);
        });
    });
}

Status Files::move(const std::string& from, const std::string& to, bool replace,
                   const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.move(from, to, replace, call.deadline);
        });
    });
}

Status Files::make_directory(const std::string& path, bool parents, uint32_t mode,
                             const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.make_directory(path, mode, parents, {}, call.deadline);
        });
    });
}

Status Files::make_symlink(const std::string& path, const std::string& target, bool replace,
                           const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.make_symlink(path, target, replace, call.deadline);
        });
    });
}

Status Files::make_hard_link(const std::string& path, const std::string& target, bool replace,
                             const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.make_hard_link(path, target, replace, call.deadline);
        });
    });
}

Status Files::set_mode(const std::string& path, uint32_t mode, const std::string& user,
                       const Call& call) const {
    return guarded([&] {
        return with_files(*impl_->sandbox, call, [&](const AgentFiles& files) {
            return files.set_attributes({.path = path, .mode = mode, .user = user}, call.deadline);
        });
    });
}

Result<Watch> Files::watch(const std::string& path, bool recursive, const Call& call) const {
    return guarded([&]() -> Result<Watch> {
        CancelScope scope(call.stop);
        auto agent = TRY(impl_->sandbox->agent(call));
        auto watch = TRY(AgentFiles(agent).watch(path, recursive, call.deadline));
        return Watch(
            std::make_shared<Watch::Impl>(Watch::Impl{std::move(agent), std::move(watch)}));
    });
}

Result<std::vector<Watch::Change>> Watch::next(const Call& call) const {
    return guarded([&]() -> Result<std::vector<Change>> {
        const std::stop_callback cancelled(call.stop, [&] { impl_->watch->cancel(); });
        std::vector<Change> changes;
        for (FileChange& each : TRY(impl_->watch->next(call.deadline)))
            changes.push_back({static_cast<Change::Kind>(each.kind), std::move(each.path),
                               std::move(each.to), each.directory});
        return changes;
    });
}

void Watch::cancel() const {
    impl_->watch->cancel();
}

}  // namespace v1
}  // namespace spore
