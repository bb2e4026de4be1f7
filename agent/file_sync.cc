#include "agent/file_sync.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/syscall.h>

#include <algorithm>
#include <climits>

namespace spore {

namespace {

// Nothing of the agent's stays open longer because of the child: its clients' sockets above all.
void close_all_but(int one, int other) {
    const auto low = static_cast<unsigned>(std::min(one, other));
    const auto high = static_cast<unsigned>(std::max(one, other));
    if (low > 0)
        ::close_range(0, low - 1, 0);
    if (high > low + 1)
        ::close_range(low + 1, high - 1, 0);
    ::close_range(high + 1, UINT_MAX, 0);
}

[[noreturn]] void sync_and_exit(int fd, bool directory, int answer) {
    close_all_but(fd, answer);
    const int synced = directory ? ::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : fd;
    const int error = synced >= 0 && ::fsync(synced) == 0 ? 0 : errno;
    (void)!::write(answer, &error, sizeof(error));
    ::_exit(0);
}

}  // namespace

Status FileSync::start(Poller& poller, int fd, bool directory, Done done) {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return fail_errno("pipe");
    UniqueFd from(ends[0]), to(ends[1]);
    const pid_t child = ::fork();
    if (child < 0)
        return fail_errno("start a process that syncs");
    if (child == 0)
        sync_and_exit(fd, directory, to.get());
    done_ = std::move(done);
    pipe_.open(poller, std::move(from), [this](uint32_t) { on_ready(); });
    return pipe_.want(kReadable);
}

void FileSync::on_ready() {
    int error = EIO;  // of a child that was killed
    const ssize_t count = ::read(pipe_.fd(), &error, sizeof(error));
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    pipe_.close();
    done_(error == 0 ? Status() : Status(fail_errno("sync", error)));
}

}  // namespace spore
