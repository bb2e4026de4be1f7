#include "agent/stdin_pipe.h"

#include "agent/terminal.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

void StdinPipe::open(Poller& poller, UniqueFd fd, bool terminal) {
    type_end_ = terminal;
    watch_.open(poller, std::move(fd), [this](uint32_t events) {
        if ((events & EPOLLERR) != 0)
            end();
        else
            write();
    });
}

void StdinPipe::start() {
    if (!watch_.want(kErrorOnly))
        end();
}

Status StdinPipe::take(const wire::StdinData& data) {
    const auto bytes = view(data.bytes());
    // Empty frames cost no credit, so a second end must not pass unnoticed either.
    if (bytes.size() > credit_ || eof_) {
        return fail(Code::invalid_argument, "stdin of " + std::to_string(bytes.size()) +
                                                " bytes: above the credit of " +
                                                std::to_string(credit_) + " or after its end");
    }
    credit_ -= static_cast<uint32_t>(bytes.size());
    eof_ = data.eof();
    if (!watch_)  // the program has closed it, or ended
        return {};
    // A client that always sends before all is read must not make it grow.
    waiting_.erase(0, std::exchange(written_, 0));
    waiting_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    write();
    return {};
}

void StdinPipe::write() {
    while (written_ < waiting_.size()) {
        const ssize_t count =
            ::write(watch_.fd(), waiting_.data() + written_, waiting_.size() - written_);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno == EAGAIN) {
            if (!watch_.want(kWritable))
                end();
            return;
        }
        if (count < 0)
            return end();
        last_ = waiting_[written_ + static_cast<size_t>(count) - 1];
        written_ += static_cast<size_t>(count);
        grant(static_cast<size_t>(count));
    }
    waiting_.clear();
    written_ = 0;
    if (eof_ && type_end())
        return write();
    if (eof_) {
        close();
        if (listener_.finished)
            listener_.finished();
        return;
    }
    if (!watch_.want(kErrorOnly))
        end();
}

// The end of a terminal's input is a character of it, which costs no credit.
bool StdinPipe::type_end() {
    if (!std::exchange(type_end_, false))
        return false;
    waiting_ = end_of_input(watch_.fd(), last_ == '\n');
    return true;
}

void StdinPipe::close() {
    watch_.close();
    waiting_ = {};
    written_ = 0;
}

void StdinPipe::end() {
    if (!watch_)
        return;
    close();
    if (listener_.closed)
        listener_.closed();
}

// In portions, to answer many small writes with few frames.
void StdinPipe::grant(size_t bytes) {
    to_grant_ += bytes;
    if (to_grant_ < limits::kStdinCreditBytes / 2)
        return;
    const auto granted = static_cast<uint32_t>(std::exchange(to_grant_, 0));
    credit_ += granted;
    if (listener_.granted)
        listener_.granted(granted);
}

uint32_t StdinPipe::grant_anew() {
    to_grant_ = 0;
    credit_ =
        limits::kStdinCreditBytes - static_cast<uint32_t>(std::min<size_t>(
                                        waiting_.size() - written_, limits::kStdinCreditBytes));
    return credit_;
}

}  // namespace spore
