#pragma once

// Inside AgentFiles and AgentCopy: requests about files that go on for a while.

#include <optional>

#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/agent_files.h"

namespace spore {

inline std::string text_of(const flatbuffers::Vector<uint8_t>* bytes) {
    const auto all = view(bytes);
    return {reinterpret_cast<const char*>(all.data()), all.size()};
}

inline flatbuffers::Offset<flatbuffers::Vector<uint8_t>> bytes_of(
    flatbuffers::FlatBufferBuilder& buffer, const std::string& text) {
    return buffer.CreateVector(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

FileInfo file_info_of(const wire::FileEntry& entry);

// The peer's answer makes no sense: ends the connection.
std::unexpected<Error> unexpected_answer(AgentStream& stream, const wire::Frame* frame);

inline constexpr uint16_t kReplaceLinkProtocol = 4;  // schema/agent.fbs

// One file on its way to the guest. An agent before kReplaceLinkProtocol follows symbolic links:
// AgentFiles::make_way first.
class FileUpload {
  public:
    FileUpload(AgentConnection& connection, AgentClient::Deadline deadline)
        : stream_(connection.open()), deadline_(deadline) {
        stream_.set_deadline(deadline);
    }

    Status begin(const FileWriteSpec& spec);
    // Sends all that the source gives. `fd`: what is to be readable before it is asked, or -1.
    Status feed(const AgentFiles::Source& source, int fd);
    // The file's size.
    Result<uint64_t> finish();

  private:
    Status take_all();
    Status take(const wire::Frame& frame);
    Status wait(int fd);
    Status send_some(const AgentFiles::Source& source);

    AgentStream stream_;
    AgentClient::Deadline deadline_;
    size_t credit_ = 0;
    bool eof_ = false;
    std::optional<uint64_t> size_;
};

// One file on its way from the guest.
class FileDownload {
  public:
    // `window`: what may be on its way before it is taken here.
    FileDownload(AgentConnection& connection, size_t window, AgentClient::Deadline deadline)
        : stream_(connection.open(window)), window_(window), deadline_(deadline) {
        stream_.set_deadline(deadline);
    }

    Status begin(const FileReadSpec& spec);
    Result<FileInfo> finish(const AgentFiles::Sink& sink);

  private:
    AgentStream stream_;
    size_t window_;
    AgentClient::Deadline deadline_;
};

}  // namespace spore
