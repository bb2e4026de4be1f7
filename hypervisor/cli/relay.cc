#include "hypervisor/cli/relay.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "hypervisor/base/agent_limits.h"

namespace spore::cli {

namespace {

// One direction. What was read is written before more is read, so a slow reader slows its writer.
class Way {
  public:
    Way(int from, int to) : from_(from), to_(to), buffer_(limits::kFrameChunkBytes) {}

    bool over() const { return over_; }
    pollfd waits_for() const {
        if (over_)
            return {-1, 0, 0};
        return end_ > begin_ ? pollfd{to_, POLLOUT, 0} : pollfd{from_, POLLIN, 0};
    }
    // After poll(2) has said that it can.
    Status move() {
        const bool writing = end_ > begin_;
        const ssize_t count = writing ? ::write(to_, buffer_.data() + begin_, end_ - begin_)
                                      : ::read(from_, buffer_.data(), buffer_.size());
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return {};
        if (writing && count < 0 && (errno == EPIPE || errno == ECONNRESET))
            over_ = true;  // nobody takes it any more; the other direction may go on
        else if (count < 0)
            return fail_errno(writing ? "write" : "read");
        else if (writing)
            begin_ += static_cast<size_t>(count);
        else if (count == 0)
            over_ = true;
        else
            begin_ = 0, end_ = static_cast<size_t>(count);
        return {};
    }

  private:
    int from_, to_;
    std::vector<char> buffer_;
    size_t begin_ = 0, end_ = 0;
    bool over_ = false;
};

// One turn of both, waiting for it.
Status turn(Way& one, Way& other) {
    pollfd waiting[] = {one.waits_for(), other.waits_for()};
    if (::poll(waiting, 2, -1) < 0)
        return errno == EINTR ? Status{} : fail_errno("poll");
    if (waiting[0].revents != 0)
        TRY(one.move());
    if (waiting[1].revents != 0)
        TRY(other.move());
    return {};
}

}  // namespace

Status relay(int one, int other) {
    Way there(one, other), back(other, one);
    bool there_told = false, back_told = false;
    while (!there.over() || !back.over()) {
        TRY(turn(there, back));
        if (there.over() && !std::exchange(there_told, true))
            ::shutdown(other, SHUT_WR);
        if (back.over() && !std::exchange(back_told, true))
            ::shutdown(one, SHUT_WR);
    }
    return {};
}

Status relay_standard(int socket) {
    Way there(STDIN_FILENO, socket), back(socket, STDOUT_FILENO);
    bool told = false;
    while (!back.over()) {
        TRY(turn(there, back));
        if (there.over() && !std::exchange(told, true))
            ::shutdown(socket, SHUT_WR);
    }
    return {};
}

}  // namespace spore::cli
