#include "tests/bad_input/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace spore::test {

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void give_up(const char* what) {
    std::perror(what);
    std::abort();
}

std::string contents(int fd) {
    std::string text;
    char buffer[4096];
    for (off_t offset = 0;;) {
        ssize_t got = ::pread(fd, buffer, sizeof(buffer), offset);
        if (got <= 0)
            return text;
        text.append(buffer, static_cast<size_t>(got));
        offset += got;
    }
}

std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> out;
    for (std::string& word : words)
        out.push_back(word.data());
    out.push_back(nullptr);
    return out;
}

int milliseconds_until(Clock::time_point deadline) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    return static_cast<int>(std::clamp<int64_t>(left.count() + 1, 0, 1 << 30));
}

}  // namespace

std::string Ended::describe() const {
    std::string how = timed_out     ? "killed at its time limit"
                      : signal != 0 ? "ended by signal " + std::to_string(signal)
                                    : "exit status " + std::to_string(status);
    return how + "\nstdout: " + out + "\nstderr: " + err;
}

Process Process::start(const Launch& launch) {
    Process process;
    process.out_.reset(::memfd_create("stdout", MFD_CLOEXEC));
    process.err_.reset(::memfd_create("stderr", MFD_CLOEXEC));
    int ends[2];
    if (!process.out_ || !process.err_ || ::pipe2(ends, O_CLOEXEC) != 0)
        give_up("pipe2");
    process.ready_.reset(ends[0]);
    UniqueFd writer(ends[1]);
    // By descriptor: another user may not be able to walk to the build directory.
    UniqueFd program(::open(launch.program.c_str(), O_PATH | O_CLOEXEC));
    if (!program)
        give_up(launch.program.c_str());

    std::vector<std::string> words = {launch.program};
    words.insert(words.end(), launch.arguments.begin(), launch.arguments.end());
    std::vector<std::string> variables = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
    for (const auto& [name, value] : launch.environment)
        variables.push_back(name + "=" + value);
    auto argv = pointers(words);
    auto envp = pointers(variables);

    process.pid_ = ::fork();
    if (process.pid_ < 0)
        give_up("fork");
    if (process.pid_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is killed leaves nothing running
        int null = ::open("/dev/null", O_RDONLY);
        // The ready pipe and the program above all that the standard streams are moved over.
        int ready = ::fcntl(writer.get(), F_DUPFD_CLOEXEC, 64);
        int image = ::fcntl(program.get(), F_DUPFD_CLOEXEC, 65);
        if (null < 0 || ready < 0 || image < 0 || ::dup2(null, 0) < 0 ||
            ::dup2(process.out_.get(), 1) < 0 || ::dup2(process.err_.get(), 2) < 0 ||
            ::dup2(ready, 3) < 0 || ::chdir(launch.directory.c_str()) != 0 ||
            (launch.prepare && !launch.prepare()))
            ::_exit(99);
        for (int fd = 4; fd < 1024; fd++) {
            if (fd != image)
                ::close(fd);
        }
        ::syscall(SYS_execveat, image, "", argv.data(), envp.data(), AT_EMPTY_PATH);
        ::_exit(98);
    }
    return process;
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      out_(std::move(other.out_)),
      err_(std::move(other.err_)),
      ready_(std::move(other.ready_)) {}

Process::~Process() {
    if (pid_ <= 0)
        return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
}

std::optional<std::string> Process::ready_line(Limit limit) {
    auto deadline = Clock::now() + limit;
    std::string line;
    for (;;) {
        pollfd waiting = {ready_.get(), POLLIN, 0};
        int events = ::poll(&waiting, 1, milliseconds_until(deadline));
        if (events < 0 && errno == EINTR)
            continue;
        if (events <= 0)
            return std::nullopt;
        char buffer[512];
        ssize_t got = ::read(ready_.get(), buffer, sizeof(buffer));
        if (got > 0)
            line.append(buffer, static_cast<size_t>(got));
        if (got <= 0 || line.find('\n') != std::string::npos)
            return line;
    }
}

void Process::terminate() {
    ::kill(pid_, SIGTERM);
}

Ended Process::wait(Limit limit) {
    Ended ended;
    UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (!handle)
        give_up("pidfd_open");
    auto deadline = Clock::now() + limit;
    pollfd waiting = {handle.get(), POLLIN, 0};
    while (::poll(&waiting, 1, milliseconds_until(deadline)) <= 0) {
        if (Clock::now() < deadline)
            continue;
        ended.timed_out = true;
        ::kill(pid_, SIGKILL);
        break;
    }
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    ended.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    ended.out = contents(out_.get());
    ended.err = contents(err_.get());
    return ended;
}

Ended run_process(const Launch& launch, Process::Limit limit) {
    return Process::start(launch).wait(limit);
}

}  // namespace spore::test
