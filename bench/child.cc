#include "bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace spore::bench {

Result<Child> Child::start(const std::vector<std::string>& words, const std::string& input) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    Child child;
    UniqueFd its_in(in[0]), its_out(out[1]);
    child.in_ = UniqueFd(in[1]);
    child.out_ = UniqueFd(out[0]);
    if (!input.empty()) {
        its_in = UniqueFd(::open(input.c_str(), O_RDONLY | O_CLOEXEC));
        if (!its_in)
            return fail_errno(input);
    }
    std::vector<char*> argv;
    for (const std::string& word : words)
        argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, its_in.get(), 0);
    ::posix_spawn_file_actions_adddup2(&actions, its_out.get(), 1);
    int error = ::posix_spawn(&child.pid_, argv[0], &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        child.pid_ = -1;
        return fail_errno(words[0], error);
    }
    return child;
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      in_(std::move(other.in_)),
      out_(std::move(other.out_)),
      rest_(std::move(other.rest_)) {}

Child::~Child() {
    (void)end();
}

Status Child::end() {
    if (pid_ <= 0)
        return {};
    ::kill(pid_, SIGKILL);
    if (::waitpid(std::exchange(pid_, -1), nullptr, 0) < 0)
        return fail_errno("waitpid");
    return {};
}

Status Child::write(const std::string& text) {
    if (::write(in_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        return fail_errno("writing to a measured program");
    return {};
}

Result<std::string> Child::read_line() {
    for (;;) {
        size_t end = rest_.find('\n');
        if (end != std::string::npos) {
            std::string line = rest_.substr(0, end);
            rest_.erase(0, end + 1);
            return line;
        }
        char buffer[512];
        ssize_t got = ::read(out_.get(), buffer, sizeof(buffer));
        if (got <= 0)
            return fail(Code::unavailable, "a measured program ended without an answer");
        rest_.append(buffer, static_cast<size_t>(got));
    }
}

Status Child::wait_for(char byte, std::chrono::milliseconds limit) {
    auto deadline = std::chrono::steady_clock::now() + limit;
    for (;;) {
        auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd waiting = {out_.get(), POLLIN, 0};
        if (left.count() <= 0 || ::poll(&waiting, 1, static_cast<int>(left.count())) == 0)
            return fail(Code::timeout, "a measured program gave no sign of its guest in time");
        char buffer[512];
        ssize_t got = ::read(out_.get(), buffer, sizeof(buffer));
        if (got <= 0)
            return fail(Code::unavailable, "a measured program ended before its guest gave a sign");
        if (std::memchr(buffer, byte, static_cast<size_t>(got)) != nullptr)
            return {};
    }
}

}  // namespace spore::bench
