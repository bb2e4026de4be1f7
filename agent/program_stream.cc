#include "agent/program_stream.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <csignal>

#include "agent/connection.h"
#include "agent/terminal.h"

namespace spore {

void ProgramStream::watch(ChildStreams& streams) {
    terminal_ = streams.terminal;
    if (terminal_)
        terminal_held_ = std::move(streams.child_in);
    output(1).watch.open(server_.poller(), std::move(streams.out),
                         [this](uint32_t) { read_output(1); });
    if (streams.err)
        output(2).watch.open(server_.poller(), std::move(streams.err),
                             [this](uint32_t) { read_output(2); });
    if (!streams.in)
        return;
    stdin_.open(server_.poller(), std::move(streams.in), terminal_);
    stdin_.listen(
        {.granted =
             [this](uint32_t bytes) { send(wire::CreateCredit(connection_.buffer(), 0, bytes)); },
         .closed = [this] { send(wire::CreateStdinClosed(connection_.buffer())); }});
}

void ProgramStream::started(pid_t pid, uint32_t stdout_credit, uint32_t stderr_credit) {
    output(1).credit = stdout_credit;
    output(2).credit = stderr_credit;
    send(wire::CreateStarted(connection_.buffer(), pid, stdin_ ? stdin_.credit() : 0));
    if (stdin_)
        stdin_.start();
    update();
}

void ProgramStream::ended(const ChildEnd& end) {
    end_ = end;
    end_->timed_out = timed_out_;
    timeout_.clear();
    stdin_.close();
    terminal_held_.reset();
    for (Output& output : outputs_) {
        int available = 0;
        if (!output.watch)
            continue;
        // What waits before a terminal's line discipline is in no count: read until there is none.
        if (terminal_)
            output.remaining = kTerminalBytesMax;
        else if (::ioctl(output.watch.fd(), FIONREAD, &available) == 0)
            output.remaining = static_cast<size_t>(available);
    }
    if (terminal_)
        want_turn();
    update();
    finish_if_drained();
}

void ProgramStream::on_timeout() {
    timed_out_ = true;
    kill(SIGKILL);
}

void ProgramStream::cancel() {
    kill(SIGKILL);
    // Nobody takes its output any more, and it must not wait for that.
    for (Output& output : outputs_)
        leave(output);
    finish_if_drained();
}

Status ProgramStream::take(const wire::Frame& frame) {
    if (const auto* data = frame.body_as_StdinData())
        return stdin_.take(*data);
    if (const auto* credit = frame.body_as_Credit())
        return take_credit(*credit);
    if (const auto* signal = frame.body_as_Signal())
        return take_signal(*signal);
    if (const auto* size = frame.body_as_WindowSize(); size != nullptr && terminal_)
        return take_window_size(*size);
    return Stream::take(frame);
}

Status ProgramStream::take_signal(const wire::Signal& signal) {
    if (signal.signal() < 1 || signal.signal() >= NSIG) {
        return fail(Code::invalid_argument,
                    "signal " + std::to_string(signal.signal()) + ": must be 1 to 64");
    }
    kill(signal.signal());
    return {};
}

Status ProgramStream::take_window_size(const wire::WindowSize& size) {
    // The terminal goes with the program, which the client may not know yet.
    if (const Watch& master = output(1).watch)
        set_window_size(master.fd(), size.rows(), size.columns());
    return {};
}

Status ProgramStream::take_credit(const wire::Credit& credit) {
    if (credit.fd() != 1 && credit.fd() != 2)
        return fail(Code::invalid_argument,
                    "credit for descriptor " + std::to_string(credit.fd()) + ": must be 1 or 2");
    uint32_t& sum = output(credit.fd()).credit;
    sum += std::min(credit.bytes(), UINT32_MAX - sum);
    if (terminal_ && end_)
        want_turn();
    update();
    return {};
}

void ProgramStream::update() {
    for (Output& output : outputs_) {
        const bool by_turns = terminal_ && end_;
        const bool read =
            output.credit > 0 && !output.drained() && !by_turns && !connection_.congested();
        // Leaving the set, a pipe whose writers are gone makes no noise either.
        if (const Status wanted = output.watch.want(read ? kReadable : 0); !wanted)
            output.watch.close();
    }
}

bool ProgramStream::turn() {
    return end_ && !done() && read_output(1);
}

bool ProgramStream::read_output(uint8_t fd) {
    Output& from = output(fd);
    const auto scratch = server_.scratch();
    const size_t room = std::min({scratch.size(), static_cast<size_t>(from.credit),
                                  from.remaining.value_or(scratch.size())});
    if (!from.watch || room == 0 || connection_.congested()) {
        update();
        return false;
    }
    const ssize_t count = ::read(from.watch.fd(), scratch.data(), room);
    if (count < 0 && (errno == EINTR || (errno == EAGAIN && !(terminal_ && end_))))
        return true;
    if (count <= 0) {  // EIO from a terminal that nobody has open
        from.watch.close();
    } else {
        from.credit -= static_cast<uint32_t>(count);
        if (from.remaining)
            *from.remaining -= static_cast<size_t>(count);
        auto& buffer = connection_.buffer();
        const auto bytes = buffer.CreateVector(reinterpret_cast<const uint8_t*>(scratch.data()),
                                               static_cast<size_t>(count));
        send(wire::CreateOutput(buffer, fd, bytes));
    }
    update();
    finish_if_drained();
    return count > 0;
}

// A process that is left in the background must not die of writing to a pipe. A terminal hangs up.
void ProgramStream::leave(Output& output) {
    if (output.watch && !terminal_)
        server_.discard_output(output.watch.take());
    output.watch.close();
}

void ProgramStream::finish_if_drained() {
    if (!end_ || done() || !outputs_[0].drained() || !outputs_[1].drained())
        return;
    for (Output& output : outputs_)
        leave(output);
    finish(exited_frame(connection_.buffer(), *end_));
}

}  // namespace spore
