#include "tests/jail/harness.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

namespace spore {

Result<Probe> Probe::start(const std::string& role, const std::string& attempt, uint64_t number,
                           bool own_pids, const ProbeCgroup& cgroup) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    UniqueFd reader(ends[0]), writer(ends[1]);
    UniqueFd directory(::open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    ProcessPlan plan;
    plan.program = JAIL_PROBE_PATH;
    plan.arguments = {"jail_probe", role, attempt, std::to_string(number)};
    plan.directory = "/";
    plan.own_pids = own_pids;
    plan.cgroup = cgroup.handle;
    if (!cgroup.told.empty())
        plan.arguments.push_back(cgroup.told);
    plan.descriptors = {-1,           -1,       STDERR_FILENO, writer.get(), directory.get(),
                        socket.get(), kvm.get()};
    auto process = TRY(start_isolated(plan));
    return Probe(std::move(process), std::move(reader));
}

Probe::~Probe() {
    if (!process_.handle || ended_)
        return;
    ::syscall(SYS_pidfd_send_signal, process_.handle.get(), SIGKILL, nullptr, 0);
    ::waitpid(process_.pid, nullptr, 0);
}

bool Probe::read_some() {
    char buffer[4096];
    ssize_t got = ::read(output_.get(), buffer, sizeof(buffer));
    if (got > 0)
        said_.append(buffer, static_cast<size_t>(got));
    return got > 0;
}

bool Probe::wait_for(const std::string& word) {
    while (said_.find(word) == std::string::npos) {
        if (!read_some())
            return false;
    }
    return true;
}

Ended Probe::wait() {
    while (read_some()) {
    }
    Ended ended;
    int status = 0;
    if (::waitpid(process_.pid, &status, 0) == process_.pid) {
        ended.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    ended_ = true;
    std::istringstream lines(said_);
    bool in_report = true;
    for (std::string line; std::getline(lines, line);) {
        size_t space = line.find(' ');
        if (line == ".")
            in_report = false;
        else if (in_report && line.ends_with(" holds"))
            ended.report[line.substr(0, space)] = "";
        else if (in_report && line.find(" lacks ") == space)
            ended.report[line.substr(0, space)] = line.substr(space + 7);
        else
            ended.output += line + "\n";
    }
    return ended;
}

Ended run_probe(const std::string& role, const std::string& attempt, uint64_t number) {
    auto probe = Probe::start(role, attempt, number);
    if (!probe)
        return {0, -1, {}, probe.error().message};
    return probe->wait();
}

}  // namespace spore
