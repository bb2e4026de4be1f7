// A process's stdin, fed from a descriptor.

#include <unistd.h>

#include <array>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/agent_process.h"

namespace spore {

namespace {

class Feeding {
  public:
    Feeding(AgentStream& stream, int fd, bool close, AgentStream::Deadline deadline)
        : stream_(stream), fd_(fd), close_(close), deadline_(deadline) {}

    Result<bool> run();

  private:
    Status wait();
    Status feed();

    AgentStream& stream_;
    int fd_;
    bool close_;
    AgentStream::Deadline deadline_;
    bool ready_ = false;
    bool open_ = true;     // there is more to read here
    bool closed_ = false;  // by the process
    uint32_t credit_ = 0;
};

Result<bool> Feeding::run() {
    while (true) {
        const auto* frame = TRY(stream_.next());
        if (frame == nullptr) {
            TRY(wait());
            continue;
        }
        if (const auto* error = frame->body_as_Error())
            return std::unexpected(error_of(*error));
        if (const auto* input = frame->body_as_InputReady()) {
            ready_ = true;
            credit_ = input->credit();
        } else if (const auto* credit = frame->body_as_Credit()) {
            credit_ += credit->bytes();
        } else if (frame->body_as_StdinClosed() != nullptr) {
            closed_ = true;
            open_ = false;
        } else if (frame->body_as_Done() != nullptr) {
            return !closed_;
        }
    }
}

Status Feeding::wait() {
    pollfd input = {ready_ && open_ && credit_ > 0 && !stream_.full() ? fd_ : -1, POLLIN, 0};
    TRY(stream_.wait(deadline_, std::span(&input, 1)));
    return input.revents == 0 ? Status{} : feed();
}

Status Feeding::feed() {
    std::array<uint8_t, limits::kFrameChunkBytes> chunk;
    const ssize_t count = ::read(fd_, chunk.data(), std::min<size_t>(chunk.size(), credit_));
    if (count < 0 && (errno == EINTR || errno == EAGAIN))
        return {};
    auto& buffer = stream_.buffer();
    if (count <= 0) {
        open_ = false;
        if (close_)
            return stream_.send(wire::CreateStdinData(buffer, 0, true));
        return stream_.send(wire::CreateCancel(buffer));
    }
    credit_ -= static_cast<uint32_t>(count);
    const auto bytes = buffer.CreateVector(chunk.data(), static_cast<size_t>(count));
    return stream_.send(wire::CreateStdinData(buffer, bytes, false));
}

}  // namespace

Result<bool> AgentProcesses::input(const ProcessName& process, int fd, bool close,
                                   Deadline deadline) {
    AgentStream stream = connection_.open();
    stream.set_deadline(deadline);
    auto& buffer = stream.buffer();
    const auto name = buffer.CreateString(process.name);
    TRY(stream.send(wire::CreateProcessInput(buffer, process.id, name)));
    return Feeding(stream, fd, close, deadline).run();
}

}  // namespace spore
