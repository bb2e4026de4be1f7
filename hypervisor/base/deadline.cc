#include "hypervisor/base/deadline.h"

#include <poll.h>

#include <cerrno>

namespace spore {

Status wait_readable(int fd, std::chrono::steady_clock::time_point deadline,
                     const std::string& what_is_late) {
    pollfd waiting = {fd, POLLIN, 0};
    int ready = 0;
    do {
        ready = ::poll(&waiting, 1, milliseconds_until(deadline));
    } while (ready < 0 && errno == EINTR);
    if (ready < 0)
        return fail_errno("poll");
    if (ready == 0)
        return fail(Code::timeout, what_is_late);
    return {};
}

}  // namespace spore
