// A command's output: read within the credit of its stream, and its end behind it.

#include <algorithm>

#include "agent/command.h"
#include "agent/connection.h"

namespace spore {

void Command::update() {
    for (OutputPipe& pipe : outputs_) {
        const bool read = pipe.credit > 0 && !pipe.drained() && !connection_.congested();
        // Leaving the set, a pipe whose writers are gone makes no noise either.
        if (const Status wanted = pipe.watch.want(read ? kReadable : 0); !wanted)
            pipe.watch.close();
    }
}

void Command::read_output(uint8_t fd) {
    OutputPipe& pipe = output(fd);
    const auto scratch = server_.scratch();
    const size_t room = std::min({scratch.size(), static_cast<size_t>(pipe.credit),
                                  pipe.remaining.value_or(scratch.size())});
    if (room == 0 || connection_.congested())
        return update();
    const ssize_t count = ::read(pipe.watch.fd(), scratch.data(), room);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        pipe.watch.close();
    } else {
        pipe.credit -= static_cast<uint32_t>(count);
        if (pipe.remaining)
            *pipe.remaining -= static_cast<size_t>(count);
        auto& buffer = connection_.buffer();
        const auto bytes = buffer.CreateVector(reinterpret_cast<const uint8_t*>(scratch.data()),
                                               static_cast<size_t>(count));
        send(wire::CreateOutput(buffer, fd, bytes));
    }
    update();
    finish_if_drained();
}

Status Command::take_credit(const wire::Credit& credit) {
    if (credit.fd() != 1 && credit.fd() != 2)
        return fail(Code::invalid_argument,
                    "credit for descriptor " + std::to_string(credit.fd()) + ": must be 1 or 2");
    uint32_t& sum = output(credit.fd()).credit;
    sum += std::min(credit.bytes(), UINT32_MAX - sum);
    update();
    return {};
}

void Command::finish_if_drained() {
    if (!exited_ || done() || !outputs_[0].drained() || !outputs_[1].drained())
        return;
    for (OutputPipe& pipe : outputs_) {
        if (pipe.watch)
            server_.discard_output(pipe.watch.take());
    }
    finish(exited_frame(connection_.buffer(), end_));
}

}  // namespace spore
