#include "agent/poller.h"

#include <array>

namespace spore {

void Watch::open(Poller& poller, UniqueFd fd, Handler handler) {
    close();
    poller_ = &poller;
    fd_ = std::move(fd);
    handler_ = std::move(handler);
    id_ = poller.next_id_++;
    poller.watches_.emplace(id_, this);
}

Status Watch::want(uint32_t events) {
    if (events == events_ || !fd_)
        return {};
    int operation = EPOLL_CTL_MOD;
    if (events == 0)
        operation = EPOLL_CTL_DEL;
    else if (events_ == 0)
        operation = EPOLL_CTL_ADD;
    epoll_event event = {};
    event.events = events;
    event.data.u64 = id_;
    if (::epoll_ctl(poller_->epoll_.get(), operation, fd_.get(), &event) != 0)
        return fail_errno("epoll_ctl");
    events_ = events;
    return {};
}

UniqueFd Watch::take() {
    if (fd_) {
        // Leaving the set cannot fail for a descriptor that is in it.
        (void)want(0);
        poller_->watches_.erase(id_);
    }
    events_ = 0;
    return std::move(fd_);
}

Status Poller::open() {
    epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_)
        return fail_errno("epoll_create1");
    return {};
}

Status Poller::wait(int timeout_ms) {
    std::array<epoll_event, 64> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms);
    if (count < 0) {
        if (errno == EINTR)
            return {};
        return fail_errno("epoll_wait");
    }
    for (int i = 0; i < count; ++i) {
        const uint64_t id = events[i].data.u64;  // a copy: the structure is packed
        const auto found = watches_.find(id);
        if (found != watches_.end())
            found->second->handler_(events[i].events);
    }
    return {};
}

}  // namespace spore
