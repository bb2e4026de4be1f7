// What a jailed spore-vmm does all day, which must go on working.

#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "hypervisor/io/event_loop.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/jail/namespaces.h"
#include "tests/jail/probe.h"

namespace spore::probe {

namespace {

// Enough to make glibc grow and shrink its heap, and to map and unmap.
bool use_memory() {
    std::vector<void*> blocks;
    for (size_t round = 0; round < 200; round++) {
        size_t size = round % 10 == 0 ? 1 << 20 : 1 << (round % 15);
        blocks.push_back(std::malloc(size));
        if (blocks.back() == nullptr)
            return false;
        *static_cast<volatile char*>(blocks.back()) = 1;
    }
    for (void* block : blocks)
        std::free(block);
    return true;
}

bool format_time() {
    timespec now = {};
    if (::clock_gettime(CLOCK_REALTIME, &now) != 0)
        return false;
    tm parts = {};
    char text[64];
    return ::gmtime_r(&now.tv_sec, &parts) != nullptr &&
           ::strftime(text, sizeof(text), "%FT%TZ", &parts) > 0;
}

bool throw_and_catch() {
    try {
        throw std::runtime_error("thrown in the jail");
    } catch (const std::exception& error) {
        return error.what()[0] == 't';
    }
}

// As vcpu_thread.cc: a thread with a filter of its own, woken, kicked and joined.
bool run_vcpu_thread() {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    if (::sigaction(SIGRTMIN, &action, nullptr) != 0)
        return false;
    int bell = ::eventfd(0, EFD_CLOEXEC);
    std::mutex mutex;
    std::condition_variable changed;
    bool go = false, worked = false;
    std::thread thread([&] {
        bool restricted = restrict_thread(Role::vcpu).has_value();
        uint64_t one = 1;
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return go; });
        worked = restricted && use_memory() && ::write(bell, &one, sizeof(one)) == sizeof(one);
    });
    ::pthread_kill(thread.native_handle(), SIGRTMIN);
    {
        std::lock_guard lock(mutex);
        go = true;
        changed.notify_all();
    }
    uint64_t count = 0;
    bool rung = ::read(bell, &count, sizeof(count)) == sizeof(count) && count == 1;
    thread.join();
    ::close(bell);
    return rung && worked;
}

int work_as_loop(uint64_t) {
    std::byte entropy[32];
    pollfd waiting = {kReportFd, POLLOUT, 0};
    bool worked = use_memory() && format_time() && throw_and_catch() && run_vcpu_thread() &&
                  run_vcpu_thread() && ::getrandom(entropy, sizeof(entropy), 0) > 0 &&
                  ::poll(&waiting, 1, 0) == 1 && ::fcntl(kReportFd, F_GETFL) >= 0;
    return worked ? kSucceeded : kBroken;
}

int work_as_vcpu(uint64_t) {
    return use_memory() && throw_and_catch() ? kSucceeded : kBroken;
}

// A VM made in the jail from a /dev/kvm opened before.
int make_vm(uint64_t) {
    if (::ioctl(kKvmFd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return kRefused;
    int vm = ::ioctl(kKvmFd, KVM_CREATE_VM, 0);
    if (vm < 0 || ::ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
        return kBroken;
    return kSucceeded;
}

// What a zygote may call, to fork into a cgroup, its workers may not.
bool no_clone3() {
    return ::syscall(SYS_clone3, nullptr, 0) == -1 && errno == ENOSYS;
}

// The zygote's part: a worker with its own ring and namespaces, which does a loop's work. With
// `stay` both wait until they are ended from outside.
int fork_worker(uint64_t stay) {
    auto pid = fork_jailed();
    if (!pid)
        return kBroken;
    if (*pid == 0) {
        static constexpr int kKeep[] = {kReportFd, kKvmFd};
        JailOptions options;
        options.keep = std::span<const int>(kKeep);
        auto report = enter_worker_jail(options);
        EventLoop::Options ring;
        auto loop = EventLoop::create(ring);
        bool good = report && loop && report->missing().starts_with("cgroup: ") &&
                    restrict_thread(Role::loop) && ::getpid() == 1 && no_clone3() &&
                    work_as_loop(0) == kSucceeded;
        say(good ? "worker\n" : "broken worker\n");
        while (good && stay != 0)
            ::poll(nullptr, 0, -1);
        ::_exit(good ? kSucceeded : kBroken);
    }
    int status = 0;
    if (::waitpid(*pid, &status, 0) != *pid)
        return kBroken;
    return WIFEXITED(status) ? WEXITSTATUS(status) : kBroken;
}

int abort_process(uint64_t) {
    std::abort();
}

// Until SIGTERM, which main() has blocked, comes in.
int wait_for_sigterm(uint64_t fd) {
    say("waiting\n");
    char info[128];
    return ::read(static_cast<int>(fd), info, sizeof(info)) == sizeof(info) ? kSucceeded : kBroken;
}

int wait_for_ever(uint64_t) {
    say("waiting\n");
    for (;;)
        ::poll(nullptr, 0, -1);
}

}  // namespace

const std::vector<Attempt>& workloads() {
    static const std::vector<Attempt> list = {
        {"work_as_loop", work_as_loop},
        {"work_as_vcpu", work_as_vcpu},
        {"make_vm", make_vm},
        {"fork_worker", fork_worker},
        {"abort", abort_process},
        {"wait_for_sigterm", wait_for_sigterm},
        {"wait_for_ever", wait_for_ever},
    };
    return list;
}

}  // namespace spore::probe
