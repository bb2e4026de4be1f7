#include "hypervisor/io/event_loop.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

#include <algorithm>
#include <cassert>
#include <semaphore>

namespace spore {

Operation::~Operation() {
    assert(!in_flight_ && "an operation died while the ring held it");
}

RingFile::RingFile(RingFile&& other) noexcept
    : loop_(std::exchange(other.loop_, nullptr)), fd_(std::move(other.fd_)), slot_(other.slot_) {}

RingFile& RingFile::operator=(RingFile&& other) noexcept {
    if (this != &other) {
        reset();
        loop_ = std::exchange(other.loop_, nullptr);
        fd_ = std::move(other.fd_);
        slot_ = other.slot_;
    }
    return *this;
}

void RingFile::reset() {
    if (loop_ != nullptr)
        loop_->remove_file(slot_);
    loop_ = nullptr;
    fd_.reset();
}

Result<std::unique_ptr<EventLoop>> EventLoop::create(const Options& options) {
    std::unique_ptr<EventLoop> loop(new EventLoop);
    TRY(loop->set_up(options));
    return loop;
}

EventLoop::~EventLoop() {
    assert(in_flight_ == 0 && "drain() the loop before it goes");
    if (!ring_made_)
        return;
    if (wake_up_read_ && wake_up_read_->in_flight_) {
        stop();
        while (wake_up_read_->in_flight_)
            iterate(nullptr);
    }
    wake_up_.reset();
    io_uring_queue_exit(&ring_);
}

Status EventLoop::set_up(const Options& options) {
    thread_ = std::this_thread::get_id();
    io_uring_params params = {};
    // One thread submits, and completions are worked off when it asks: no interruptions of it. The
    // ring starts disabled so that restrictions are in force before the first request.
    params.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER |
                   IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE;
    params.cq_entries = std::max(options.entries * 2, limits::kRingCompletions);
    int made = io_uring_queue_init_params(options.entries, &ring_, &params);
    if (made == -EINVAL || made == -ENOSYS)
        return fail(
            Code::host_unsupported,
            "io_uring_setup: this kernel lacks DEFER_TASKRUN; Linux 6.1 or newer is needed");
    if (made == -ENOMEM) {
        rlimit limit = {};
        ::getrlimit(RLIMIT_MEMLOCK, &limit);
        return fail(Code::resource_exhausted,
                    "io_uring_setup: no memory, or more than RLIMIT_MEMLOCK, " +
                        std::to_string(limit.rlim_cur >> 10) +
                        " KiB for the rings of all of this user's processes");
    }
    if (made < 0)
        return fail_errno("io_uring_setup", -made);
    ring_made_ = true;
    TRY(restrict_and_enable());

    int registered = io_uring_register_files_sparse(&ring_, options.files);
    if (registered < 0)
        return fail_errno("io_uring_register of " + std::to_string(options.files) + " files",
                          -registered);
    for (uint32_t slot = options.files; slot > 0; slot--)
        free_slots_.push_back(slot - 1);

    UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event)
        return fail_errno("eventfd");
    wake_up_ = TRY(add_file(std::move(event)));
    wake_up_read_ = std::make_unique<Operation>([this](int32_t) {
        in_flight_++;  // dispatch_completions() counts it off; the wake-up is not counted at all
        if (!stopping_)
            arm_wake_up();
    });
    arm_wake_up();
    return {};
}

// The opcodes in use: everything else in the kernel's ring is out of reach, whatever goes wrong.
Status EventLoop::restrict_and_enable() {
    static constexpr uint8_t kOpcodes[] = {
        IORING_OP_READ,     IORING_OP_WRITE,   IORING_OP_READV,        IORING_OP_WRITEV,
        IORING_OP_FSYNC,    IORING_OP_RECV,    IORING_OP_SEND,         IORING_OP_FALLOCATE,
        IORING_OP_SENDMSG,  IORING_OP_RECVMSG, IORING_OP_ACCEPT,       IORING_OP_CONNECT,
        IORING_OP_POLL_ADD, IORING_OP_TIMEOUT, IORING_OP_ASYNC_CANCEL, IORING_OP_TIMEOUT_REMOVE,
    };
    std::vector<io_uring_restriction> restrictions;
    for (uint8_t opcode : kOpcodes) {
        io_uring_restriction allow = {};
        allow.opcode = IORING_RESTRICTION_SQE_OP;
        allow.sqe_op = opcode;
        restrictions.push_back(allow);
    }
    io_uring_restriction fixed = {};
    fixed.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    fixed.sqe_flags = IOSQE_FIXED_FILE;
    restrictions.push_back(fixed);
    for (uint8_t allowed : {IORING_REGISTER_FILES2, IORING_REGISTER_FILES_UPDATE}) {
        io_uring_restriction allow = {};
        allow.opcode = IORING_RESTRICTION_REGISTER_OP;
        allow.register_op = allowed;
        restrictions.push_back(allow);
    }
    int restricted = io_uring_register_restrictions(&ring_, restrictions.data(),
                                                    static_cast<unsigned>(restrictions.size()));
    if (restricted < 0)
        return fail_errno("io_uring restrictions", -restricted);
    int enabled = io_uring_enable_rings(&ring_);
    if (enabled < 0)
        return fail_errno("enabling io_uring", -enabled);
    return {};
}

Result<RingFile> EventLoop::add_file(UniqueFd fd) {
    assert(on_loop_thread());
    if (free_slots_.empty())
        return fail(Code::resource_exhausted, "the ring's table of fixed files is full");
    uint32_t slot = free_slots_.back();
    int value = fd.get();
    int updated = io_uring_register_files_update(&ring_, slot, &value, 1);
    if (updated < 0)
        return fail_errno("io_uring_register of a file", -updated);
    free_slots_.pop_back();
    return RingFile(this, std::move(fd), slot);
}

void EventLoop::remove_file(uint32_t slot) {
    assert(on_loop_thread());
    int none = -1;
    [[maybe_unused]] int updated = io_uring_register_files_update(&ring_, slot, &none, 1);
    assert(updated == 1);
    free_slots_.push_back(slot);
}

void EventLoop::run() {
    assert(on_loop_thread());
    while (!stopping_)
        iterate(nullptr);
    {
        std::lock_guard lock(posted_mutex_);
        stopped_ = true;
    }
    run_posted();  // what was posted before the stop has callers waiting
}

bool EventLoop::run_until(const std::function<bool()>& done, std::chrono::milliseconds limit) {
    assert(on_loop_thread());
    auto deadline = std::chrono::steady_clock::now() + limit;
    while (!done()) {
        auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(
            deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0)
            return false;
        __kernel_timespec wait = {};
        wait.tv_sec = left.count() / 1'000'000'000;
        wait.tv_nsec = left.count() % 1'000'000'000;
        iterate(&wait);
    }
    return true;
}

void EventLoop::drain() {
    assert(on_loop_thread());
    while (in_flight_ > 0 || !deferred_.empty()) {
        if (!drain_cancel_)
            drain_cancel_ = std::make_unique<Operation>([](int32_t) {});
        if (!drain_cancel_->in_flight_) {
            io_uring_sqe* entry = begin(*drain_cancel_, nullptr);
            io_uring_prep_cancel64(entry, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
            entry->flags |= IOSQE_FIXED_FILE;
            io_uring_sqe_set_data(entry, drain_cancel_.get());
        }
        iterate(nullptr);
    }
}

void EventLoop::iterate(const __kernel_timespec* limit) {
    bool ran = run_posted();
    ran |= run_deferred();
    if (ran) {
        // What the tasks changed is looked at before waiting again. Completions must be fetched all
        // the same (DEFER_TASKRUN): tasks may follow upon tasks for long.
        io_uring_submit_and_get_events(&ring_);
    } else if (limit == nullptr) {
        io_uring_submit_and_wait(&ring_, 1);
    } else {
        io_uring_cqe* first = nullptr;
        __kernel_timespec wait = *limit;
        io_uring_submit_and_wait_timeout(&ring_, &first, 1, &wait, nullptr);
    }
    dispatch_completions();
    run_deferred();
}

void EventLoop::dispatch_completions() {
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring_, &completion) == 0) {
        auto* op = static_cast<Operation*>(io_uring_cqe_get_data(completion));
        int32_t result = completion->res;
        io_uring_cqe_seen(&ring_, completion);
        if (op == nullptr)
            continue;  // a cancellation's own completion: the cancelled operation tells
        op->in_flight_ = false;
        in_flight_--;
        op->on_complete_(result);
    }
}

bool EventLoop::run_posted() {
    std::vector<Task> tasks;
    {
        std::lock_guard lock(posted_mutex_);
        tasks.swap(posted_);
    }
    for (Task& task : tasks)
        task();
    return !tasks.empty();
}

bool EventLoop::run_deferred() {
    // What these defer in turn has its turn next time round: a guest that always gives more to do
    // must not keep everything else from its turn. iterate() does not wait while any are left.
    std::vector<Task> tasks;
    tasks.swap(deferred_);
    for (Task& task : tasks)
        task();
    return !tasks.empty();
}

void EventLoop::defer(Task task) {
    assert(on_loop_thread());
    deferred_.push_back(std::move(task));
}

void EventLoop::post(Task task) {
    bool wake = false;
    {
        std::lock_guard lock(posted_mutex_);
        if (stopped_)
            return;
        wake = posted_.empty();
        posted_.push_back(std::move(task));
    }
    if (wake)
        ring_the_bell();
}

bool EventLoop::call(const std::function<void()>& task) {
    if (on_loop_thread()) {
        task();
        return true;
    }
    std::binary_semaphore done(0);
    {
        std::lock_guard lock(posted_mutex_);
        if (stopped_)
            return false;
        posted_.push_back([&] {
            task();
            done.release();
        });
    }
    ring_the_bell();
    done.acquire();
    return true;
}

void EventLoop::stop() {
    stopping_ = true;
    ring_the_bell();
}

void EventLoop::ring_the_bell() {
    uint64_t one = 1;
    // Cannot fail: the counter would have to reach 2^64 - 1 first.
    [[maybe_unused]] ssize_t written = ::write(wake_up_.fd(), &one, sizeof(one));
}

}  // namespace spore
