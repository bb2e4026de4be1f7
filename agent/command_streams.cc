// A command's three pipes: reading and writing them within the credit of their streams.

#include <sys/ioctl.h>
#include <sys/wait.h>

#include <algorithm>

#include "agent/command.h"
#include "agent/connection.h"
#include "agent/server.h"

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

Status Command::take_stdin(const wire::StdinData& data) {
    const auto bytes = view(data.bytes());
    // Empty frames cost no credit, so a second end must not pass unnoticed either.
    if (bytes.size() > stdin_credit_ || stdin_eof_) {
        return fail(Code::invalid_argument,
                    "stdin of " + std::to_string(bytes.size()) + " bytes: above the credit of " +
                        std::to_string(stdin_credit_) + " or after its end");
    }
    stdin_credit_ -= static_cast<uint32_t>(bytes.size());
    stdin_eof_ = data.eof();
    if (!stdin_)  // the command has closed it, or ended
        return {};
    stdin_waiting_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    write_stdin();
    return {};
}

void Command::write_stdin() {
    while (stdin_written_ < stdin_waiting_.size()) {
        const ssize_t count = ::write(stdin_.fd(), stdin_waiting_.data() + stdin_written_,
                                      stdin_waiting_.size() - stdin_written_);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno == EAGAIN) {
            if (!stdin_.want(kWritable))
                close_stdin();
            return;
        }
        if (count < 0)
            return close_stdin();
        stdin_written_ += static_cast<size_t>(count);
        grant_stdin(static_cast<size_t>(count));
    }
    stdin_waiting_.clear();
    stdin_written_ = 0;
    if (stdin_eof_) {
        stdin_.close();
        return;
    }
    if (!stdin_.want(kErrorOnly))
        close_stdin();
}

void Command::close_stdin() {
    stdin_.close();
    stdin_waiting_ = {};
    stdin_written_ = 0;
    send(wire::CreateStdinClosed(connection_.buffer()));
}

// In portions, to answer many small writes with few frames.
void Command::grant_stdin(size_t bytes) {
    stdin_to_grant_ += bytes;
    if (stdin_to_grant_ < limits::kStdinCreditBytes / 2)
        return;
    stdin_credit_ += static_cast<uint32_t>(stdin_to_grant_);
    send(wire::CreateCredit(connection_.buffer(), 0, static_cast<uint32_t>(stdin_to_grant_)));
    stdin_to_grant_ = 0;
}

void Command::finish_if_drained() {
    if (!exited_ || done() || !outputs_[0].drained() || !outputs_[1].drained())
        return;
    for (OutputPipe& pipe : outputs_) {
        if (pipe.watch)
            server_.discard_output(pipe.watch.take());
    }
    const auto microseconds = [](const timeval& time) {
        return static_cast<uint64_t>(time.tv_sec) * 1'000'000 + static_cast<uint64_t>(time.tv_usec);
    };
    const bool signaled = WIFSIGNALED(wait_status_);
    finish(wire::CreateExited(
        connection_.buffer(), static_cast<uint8_t>(signaled ? 0 : WEXITSTATUS(wait_status_)),
        static_cast<uint8_t>(signaled ? WTERMSIG(wait_status_) : 0), timed_out_,
        microseconds(usage_.ru_utime) + microseconds(usage_.ru_stime),
        static_cast<uint64_t>(usage_.ru_maxrss) * limits::kKiB));
}

}  // namespace spore
