#pragma once

// One io_uring, and everything that waits: disks, taps, sockets, doorbells, timers, other threads.

#include <liburing.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

class EventLoop;

// One request that the ring may be working on, and what to do when it is done. Its owner keeps it,
// and every buffer given with it, alive until it has completed (asserted); it can be used again
// then, also from inside its own handler. `result` is the system call's: >= 0, or -errno.
class Operation {
  public:
    using Handler = std::move_only_function<void(int32_t result)>;

    explicit Operation(Handler on_complete) : on_complete_(std::move(on_complete)) {}
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    ~Operation();

    bool in_flight() const { return in_flight_; }

  private:
    friend class EventLoop;
    Handler on_complete_;
    __kernel_timespec time_ = {};
    bool in_flight_ = false;
};

// A file in the ring's table of fixed files: the ring takes no other. Owns the descriptor. Dropping
// it does not end operations that are in flight on it: cancel those (or shut the socket down)
// first.
class RingFile {
  public:
    RingFile() = default;
    RingFile(RingFile&& other) noexcept;
    RingFile& operator=(RingFile&& other) noexcept;
    ~RingFile() { reset(); }

    void reset();
    int fd() const { return fd_.get(); }
    explicit operator bool() const { return loop_ != nullptr; }

  private:
    friend class EventLoop;
    RingFile(EventLoop* loop, UniqueFd fd, uint32_t slot)
        : loop_(loop), fd_(std::move(fd)), slot_(slot) {}

    EventLoop* loop_ = nullptr;
    UniqueFd fd_;
    uint32_t slot_ = 0;
};

// The thread that creates it is the loop thread: only that one may call anything but post(), call()
// and stop(). The ring takes fixed files only and just the opcodes that this class uses.
class EventLoop {
  public:
    struct Options {
        uint32_t entries = limits::kRingEntries;  // submission queue, 1..4096
        uint32_t files = 512;                     // fixed files; at most RLIMIT_NOFILE (soft)
    };
    using Task = std::move_only_function<void()>;

    // Errors: host_unsupported where the kernel (before 6.1) or a seccomp filter lacks io_uring.
    static Result<std::unique_ptr<EventLoop>> create(const Options& options);
    static Result<std::unique_ptr<EventLoop>> create() { return create(Options{}); }
    ~EventLoop();  // nothing may be in flight any more: drain() first

    // Puts `fd` into the table. Errors: resource_exhausted when all `files` are taken.
    Result<RingFile> add_file(UniqueFd fd);

    // --- Requests. Buffers (and the iovec arrays) stay valid until completion. `offset` is bytes
    // from the file's start, or kStream for what has no position.
    static constexpr uint64_t kStream = ~uint64_t{0};
    // `flags` are preadv2(2)'s: with RWF_NOWAIT it completes with -EAGAIN rather than wait.
    void read(Operation& op, const RingFile& file, std::span<std::byte> buffer, uint64_t offset,
              int flags = 0);
    void write(Operation& op, const RingFile& file, std::span<const std::byte> buffer,
               uint64_t offset);
    void readv(Operation& op, const RingFile& file, std::span<const iovec> buffers,
               uint64_t offset);
    void writev(Operation& op, const RingFile& file, std::span<const iovec> buffers,
                uint64_t offset);
    void fdatasync(Operation& op, const RingFile& file);
    void fallocate(Operation& op, const RingFile& file, int mode, uint64_t offset, uint64_t size);
    void recv(Operation& op, const RingFile& socket, std::span<std::byte> buffer, int flags = 0);
    void send(Operation& op, const RingFile& socket, std::span<const std::byte> buffer,
              int flags = 0);
    void sendmsg(Operation& op, const RingFile& socket, const msghdr* message, int flags = 0);
    void recvmsg(Operation& op, const RingFile& socket, msghdr* message, int flags = 0);
    // Completes with a new plain descriptor (close-on-exec, non-blocking): wrap it at once.
    void accept(Operation& op, const RingFile& socket);
    void connect(Operation& op, const RingFile& socket, const sockaddr* address,
                 socklen_t address_size);
    // Completes once, with the ready events of poll(2).
    void poll(Operation& op, const RingFile& file, uint32_t events);
    // Completes with -ETIME when `delay` has passed.
    void timeout(Operation& op, std::chrono::nanoseconds delay);
    // Asks the kernel to give `op` up. It still completes: with -ECANCELED, or what it had done.
    void cancel(Operation& op);

    // --- Running.
    // Serves until stop(). Returns with whatever is still in flight left so.
    void run();
    // Serves until `done()` or the deadline; says whether `done()`. For tests and start-up.
    bool run_until(const std::function<bool()>& done, std::chrono::milliseconds limit);
    // Runs `task` on this thread when the completions at hand are through, before waiting again.
    void defer(Task task);
    // Cancels everything in flight and serves until nothing is.
    void drain();
    uint32_t in_flight() const { return in_flight_; }
    bool on_loop_thread() const { return std::this_thread::get_id() == thread_; }

    // --- From any thread.
    // Runs `task` on the loop thread, soon. Tasks posted after the loop has stopped are dropped.
    void post(Task task);
    // Runs `task` on the loop thread and waits for it; false if the loop has stopped instead.
    bool call(const std::function<void()>& task);
    void stop();

  private:
    EventLoop() = default;
    friend class RingFile;

    Status set_up(const Options& options);
    Status restrict_and_enable();
    io_uring_sqe* begin(Operation& op, const RingFile* file);
    void arm_wake_up();
    void ring_the_bell();
    void iterate(const __kernel_timespec* limit);
    void dispatch_completions();
    bool run_posted();
    bool run_deferred();
    void remove_file(uint32_t slot);

    io_uring ring_ = {};
    bool ring_made_ = false;
    std::thread::id thread_;
    std::vector<uint32_t> free_slots_;
    uint32_t in_flight_ = 0;  // all but the wake-up
    std::vector<Task> deferred_;

    RingFile wake_up_;
    uint64_t wake_up_count_ = 0;
    std::unique_ptr<Operation> wake_up_read_;
    std::unique_ptr<Operation> drain_cancel_;

    std::mutex posted_mutex_;
    std::vector<Task> posted_;  // guarded by posted_mutex_
    bool stopped_ = false;      // guarded by posted_mutex_; no task runs after it
    std::atomic<bool> stopping_ = false;
};

}  // namespace spore
