#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <unordered_map>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

class Poller;

inline constexpr uint32_t kReadable = EPOLLIN;
inline constexpr uint32_t kWritable = EPOLLOUT;

// One descriptor's readiness, reported to a handler (level-triggered). Ends with the object, which
// a handler must not destroy while it runs: mark, and sweep after Poller::wait.
class Watch {
  public:
    using Handler = std::function<void(uint32_t events)>;

    Watch() = default;
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() { close(); }

    // Takes `fd` and waits for nothing yet.
    void open(Poller& poller, UniqueFd fd, Handler handler);
    // Waits for these EPOLL events. With 0 the descriptor leaves the set, and so is silent about
    // EPOLLHUP and EPOLLERR too.
    Status want(uint32_t events);
    // Stops waiting and gives the descriptor away.
    UniqueFd take();
    void close() { take().reset(); }

    int fd() const { return fd_.get(); }
    explicit operator bool() const { return static_cast<bool>(fd_); }

  private:
    friend class Poller;

    Poller* poller_ = nullptr;
    UniqueFd fd_;
    Handler handler_;
    uint64_t id_ = 0;
    uint32_t events_ = 0;
};

// One epoll set and its dispatch. Single-threaded.
class Poller {
  public:
    Status open();
    // Waits until something is ready or the time is over (-1: for ever), then runs the handlers.
    Status wait(int timeout_ms);

  private:
    friend class Watch;

    UniqueFd epoll_;
    uint64_t next_id_ = 1;
    // By ID and not by address: one handler may close the watch of another whose event is already
    // in hand.
    std::unordered_map<uint64_t, Watch*> watches_;
};

}  // namespace spore
