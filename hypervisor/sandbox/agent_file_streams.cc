#include "hypervisor/sandbox/agent_file_streams.h"
#include "hypervisor/base/agent_limits.h"

#include <array>

namespace spore {

namespace {

wire::WriteMode to_wire(FileWriteSpec::How how) {
    switch (how) {
        case FileWriteSpec::How::create:
            return wire::WriteMode::create;
        case FileWriteSpec::How::append:
            return wire::WriteMode::append;
        case FileWriteSpec::How::in_place:
            return wire::WriteMode::in_place;
        case FileWriteSpec::How::replace:
            break;
    }
    return wire::WriteMode::replace;
}

}  // namespace

FileInfo file_info_of(const wire::FileEntry& entry) {
    const auto type = entry.type();
    return {.path = text_of(entry.path()),
            .kind = type <= wire::FileType::MAX ? static_cast<FileKind>(type) : FileKind::unknown,
            .size = entry.size(),
            .mode = entry.mode() & 07777,
            .uid = entry.uid(),
            .gid = entry.gid(),
            .mtime_ns = entry.mtime_ns(),
            .target = text_of(entry.target()),
            .links = entry.links(),
            .inode = entry.inode(),
            .device = entry.device()};
}

std::unexpected<Error> unexpected_answer(AgentStream& stream, const wire::Frame* frame) {
    const std::string what =
        std::string("agent: ") +
        (frame == nullptr ? "nothing" : wire::EnumNameBody(frame->body_type())) +
        " where it was not due";
    stream.fail_connection(what);
    return fail(Code::corrupt, what);
}

Status FileUpload::begin(const FileWriteSpec& spec) {
    const bool replace_link = spec.replace_link && stream_.protocol() >= kReplaceLinkProtocol;
    auto& buffer = stream_.buffer();
    const auto path = bytes_of(buffer, spec.path);
    const auto user = buffer.CreateString(spec.user);
    return stream_.send(wire::CreateFileWrite(buffer, path, to_wire(spec.how), spec.mode,
                                              spec.parents, user, spec.offset, spec.mtime_ns,
                                              spec.sync, replace_link));
}

Status FileUpload::feed(const AgentFiles::Source& source, int fd) {
    while (!eof_) {
        TRY(take_all());
        bool readable = credit_ > 0;
        if (credit_ == 0 || fd >= 0) {
            std::array<pollfd, 1> others = {pollfd{credit_ > 0 ? fd : -1, POLLIN, 0}};
            TRY(stream_.wait(deadline_, others));
            readable = others[0].revents != 0;
        }
        if (readable)
            TRY(send_some(source));
    }
    return {};
}

Result<uint64_t> FileUpload::finish() {
    while (!size_) {
        TRY(take_all());
        if (!size_)
            TRY(stream_.wait(deadline_, {}));
    }
    return *size_;
}

Status FileUpload::take_all() {
    while (const auto* frame = TRY(stream_.next()))
        TRY(take(*frame));
    return {};
}

Status FileUpload::take(const wire::Frame& frame) {
    if (const auto* error = frame.body_as_Error())
        return std::unexpected(error_of(*error));
    if (const auto* ready = frame.body_as_WriteReady()) {
        credit_ = ready->credit();
    } else if (const auto* credit = frame.body_as_Credit()) {
        credit_ += credit->bytes();
    } else if (const auto* done = frame.body_as_Done(); done != nullptr && eof_) {
        size_ = done->bytes();
    } else {
        return unexpected_answer(stream_, &frame);
    }
    return {};
}

// Filled in the frame itself, as most often there is as much as there is room for.
Status FileUpload::send_some(const AgentFiles::Source& source) {
    auto& buffer = stream_.buffer();
    const size_t room = std::min<size_t>(credit_, limits::kFileChunkBytes);
    // A frame whose length is a multiple of 8 leaves the next one aligned (FrameReader).
    buffer.ForceVectorAlignment(room, 1, sizeof(uint64_t));
    uint8_t* bytes = nullptr;
    auto vector = buffer.CreateUninitializedVector(room, &bytes);
    auto count = source(std::as_writable_bytes(std::span(bytes, room)));
    if (!count || *count < room) {
        const std::vector<uint8_t> few(bytes, bytes + count.value_or(0));
        buffer.Clear();
        if (!count)
            return std::unexpected(std::move(count).error());
        vector = buffer.CreateVector(few);
    }
    eof_ = *count == 0;
    credit_ -= *count;
    return stream_.send(wire::CreateFileData(buffer, vector, eof_));
}

Status FileDownload::begin(const FileReadSpec& spec) {
    auto& buffer = stream_.buffer();
    const auto path = bytes_of(buffer, spec.path);
    return stream_.send(wire::CreateFileRead(buffer, path, spec.offset, spec.length,
                                             static_cast<uint32_t>(window_)));
}

Result<FileInfo> FileDownload::finish(const AgentFiles::Sink& sink) {
    const auto* frame = TRY(stream_.receive(deadline_));
    if (frame == nullptr || frame->body_as_FileEntry() == nullptr)
        return unexpected_answer(stream_, frame);
    FileInfo info = file_info_of(*frame->body_as_FileEntry());
    while (true) {
        frame = TRY(stream_.receive(deadline_));
        if (frame != nullptr && frame->body_as_Done() != nullptr)
            return info;
        if (frame == nullptr || frame->body_as_FileData() == nullptr)
            return unexpected_answer(stream_, frame);
        const auto bytes = view(frame->body_as_FileData()->bytes());
        TRY(sink(bytes));
        TRY(stream_.consumed(1, bytes.size()));
    }
}

}  // namespace spore
