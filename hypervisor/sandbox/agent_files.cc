#include "hypervisor/sandbox/agent_files.h"

#include <unistd.h>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_file_streams.h"

namespace spore {

namespace {

Result<uint64_t> upload(AgentConnection& connection, const FileWriteSpec& spec,
                        const AgentFiles::Source& source, int fd, AgentClient::Deadline deadline) {
    FileUpload upload(connection, deadline);
    TRY(upload.begin(spec));
    TRY(upload.feed(source, fd));
    return upload.finish();
}

// A request that is made of two paths and whether what is there is replaced, answered by Done.
template <typename Create>
Status ask_about_two(AgentConnection& connection, const Create& create, const std::string& first,
                     const std::string& second, bool replace, AgentClient::Deadline deadline) {
    AgentStream stream = connection.open();
    auto& buffer = stream.buffer();
    const auto first_bytes = bytes_of(buffer, first);
    const auto second_bytes = bytes_of(buffer, second);
    TRY(stream.send(create(buffer, first_bytes, second_bytes, replace)));
    return stream.receive_done(deadline);
}

FileChange change_of(const wire::WatchEvent& event) {
    const auto kind = event.kind();
    return {.kind = kind <= wire::WatchKind::MAX ? static_cast<FileChange::Kind>(kind)
                                                 : FileChange::Kind::overflow,
            .path = text_of(event.path()),
            .to = text_of(event.to()),
            .directory = event.directory()};
}

}  // namespace

std::string_view file_kind_name(FileKind kind) {
    constexpr std::string_view kNames[] = {"unknown", "file",   "directory",    "symlink",
                                           "fifo",    "socket", "block_device", "character_device"};
    return kNames[static_cast<size_t>(kind)];
}

std::string_view file_change_name(FileChange::Kind kind) {
    constexpr std::string_view kNames[] = {"created", "modified", "attributes", "removed",
                                           "moved",   "overflow", "gone"};
    return kNames[static_cast<size_t>(kind)];
}

AgentWatch::AgentWatch(AgentStream stream)
    : stream_(std::make_unique<AgentStream>(std::move(stream))) {}

AgentWatch::~AgentWatch() = default;

Result<std::vector<FileChange>> AgentWatch::next(Deadline deadline) {
    std::vector<FileChange> changes;
    while (changes.empty()) {
        const auto* frame = TRY(stream_->receive(deadline));
        if (frame == nullptr || frame->body_as_Done() != nullptr)
            return changes;
        const auto* events = frame->body_as_WatchEvents();
        if (events == nullptr)
            return unexpected_answer(*stream_, frame);
        for (const auto* event : *events->events())
            changes.push_back(change_of(*event));
        TRY(stream_->consumed(1, stream_->frame_length()));
    }
    return changes;
}

void AgentWatch::cancel() {
    stream_->cancel();
}

AgentFiles::AgentFiles(std::shared_ptr<AgentConnection> connection)
    : connection_(std::move(connection)) {}

Result<FileInfo> AgentFiles::stat(const std::string& path, bool follow, Deadline deadline) const {
    AgentStream stream = connection_->open();
    auto& buffer = stream.buffer();
    const auto bytes = bytes_of(buffer, path);
    TRY(stream.send(wire::CreateStat(buffer, bytes, follow)));
    const auto* frame = TRY(stream.receive(deadline));
    if (frame == nullptr || frame->body_as_FileEntry() == nullptr)
        return unexpected_answer(stream, frame);
    FileInfo info = file_info_of(*frame->body_as_FileEntry());
    TRY(stream.receive_done(deadline));
    return info;
}

Result<bool> AgentFiles::exists(const std::string& path, Deadline deadline) const {
    const auto info = stat(path, false, deadline);
    if (info)
        return true;
    if (info.error().code == Code::not_found)
        return false;
    return std::unexpected(info.error());
}

Result<FileInfo> AgentFiles::read(const FileReadSpec& spec, const Sink& sink,
                                  Deadline deadline) const {
    FileDownload download(*connection_, limits::kFileCreditBytes, deadline);
    TRY(download.begin(spec));
    return download.finish(sink);
}

Result<uint64_t> AgentFiles::write(const FileWriteSpec& spec, const Source& source,
                                   Deadline deadline) const {
    TRY(make_way(spec, deadline));
    return upload(*connection_, spec, source, -1, deadline);
}

Result<uint64_t> AgentFiles::write(const FileWriteSpec& spec, int fd, Deadline deadline) const {
    const Source source = [fd](std::span<std::byte> room) -> Result<size_t> {
        while (true) {
            const ssize_t count = ::read(fd, room.data(), room.size());
            if (count >= 0)
                return static_cast<size_t>(count);
            if (errno != EINTR)
                return fail_errno("read what is to be written");
        }
    };
    TRY(make_way(spec, deadline));
    return upload(*connection_, spec, source, fd, deadline);
}

Status AgentFiles::make_way(const FileWriteSpec& spec, Deadline deadline) const {
    if (!spec.replace_link || connection_->info().protocol >= kReplaceLinkProtocol)
        return {};
    const auto there = stat(spec.path, false, deadline);
    if (there && there->kind == FileKind::symlink)
        return remove(spec.path, false, deadline);
    if (there || there.error().code == Code::not_found)
        return {};
    return std::unexpected(there.error());
}

Result<bool> AgentFiles::list(const FileListSpec& spec, const Visit& visit,
                              Deadline deadline) const {
    AgentStream stream = connection_->open(limits::kFileCreditBytes);
    auto& buffer = stream.buffer();
    const auto path = bytes_of(buffer, spec.path);
    TRY(stream.send(wire::CreateList(buffer, path, spec.recursive, spec.hidden, spec.entries_max,
                                     limits::kFileCreditBytes)));
    while (true) {
        const auto* frame = TRY(stream.receive(deadline));
        if (frame != nullptr && frame->body_as_Done() != nullptr)
            return frame->body_as_Done()->truncated();
        const auto* entries = frame == nullptr ? nullptr : frame->body_as_FileEntries();
        if (entries == nullptr)
            return unexpected_answer(stream, frame);
        for (const auto* entry : *entries->entries())
            TRY(visit(file_info_of(*entry)));
        TRY(stream.consumed(1, stream.frame_length()));
    }
}

Status AgentFiles::remove(const std::string& path, bool recursive, Deadline deadline) const {
    AgentStream stream = connection_->open();
    auto& buffer = stream.buffer();
    const auto bytes = bytes_of(buffer, path);
    TRY(stream.send(wire::CreateRemove(buffer, bytes, recursive)));
    return stream.receive_done(deadline);
}

Status AgentFiles::move(const std::string& from, const std::string& to, bool replace,
                        Deadline deadline) const {
    return ask_about_two(*connection_, wire::CreateMove, from, to, replace, deadline);
}

Status AgentFiles::make_directory(const std::string& path, uint32_t mode, bool parents,
                                  const std::string& user, Deadline deadline) const {
    AgentStream stream = connection_->open();
    auto& buffer = stream.buffer();
    const auto bytes = bytes_of(buffer, path);
    const auto owner = buffer.CreateString(user);
    TRY(stream.send(wire::CreateMakeDirectory(buffer, bytes, mode, parents, owner)));
    return stream.receive_done(deadline);
}

Status AgentFiles::make_symlink(const std::string& path, const std::string& target, bool replace,
                                Deadline deadline) const {
    return ask_about_two(*connection_, wire::CreateSymlink, path, target, replace, deadline);
}

Status AgentFiles::make_hard_link(const std::string& path, const std::string& target, bool replace,
                                  Deadline deadline) const {
    return ask_about_two(*connection_, wire::CreateHardLink, path, target, replace, deadline);
}

Status AgentFiles::set_attributes(const FileAttributes& attributes, Deadline deadline) const {
    AgentStream stream = connection_->open();
    auto& buffer = stream.buffer();
    const auto path = bytes_of(buffer, attributes.path);
    const auto user = buffer.CreateString(attributes.user);
    TRY(stream.send(
        wire::CreateSetAttributes(buffer, path, attributes.link, attributes.mode.has_value(),
                                  attributes.mode.value_or(0), user, attributes.mtime_ns)));
    return stream.receive_done(deadline);
}

Result<std::unique_ptr<AgentWatch>> AgentFiles::watch(const std::string& path, bool recursive,
                                                      Deadline deadline) const {
    AgentStream stream = connection_->open(limits::kFileCreditBytes);
    auto& buffer = stream.buffer();
    const auto bytes = bytes_of(buffer, path);
    TRY(stream.send(wire::CreateWatch(buffer, bytes, recursive, limits::kFileCreditBytes)));
    const auto* frame = TRY(stream.receive(deadline));
    if (frame == nullptr || frame->body_as_Watching() == nullptr)
        return unexpected_answer(stream, frame);
    return std::make_unique<AgentWatch>(std::move(stream));
}

}  // namespace spore
