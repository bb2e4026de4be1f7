// See probe.h.

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <span>

#include "hypervisor/jail/jail.h"
#include "hypervisor/jail/namespaces.h"
#include "tests/jail/probe.h"

namespace spore::probe {

void say(const std::string& text) {
    if (::write(kReportFd, text.data(), text.size()) < 0)
        ::_exit(kBroken);
}

namespace {

constexpr int kSignalFd = 7;

int main_with(std::span<char*> arguments) {
    if (arguments.size() < 3)
        return kBroken;
    std::string role = arguments[1], name = arguments[2];
    uint64_t number = arguments.size() > 3 ? std::strtoull(arguments[3], nullptr, 0) : 0;

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    int signals = ::signalfd(-1, &set, SFD_CLOEXEC);
    if (signals < 0 || (signals != kSignalFd && ::dup2(signals, kSignalFd) < 0))
        return kBroken;
    if (name == "wait_for_sigterm")
        number = kSignalFd;
    prepare_fork_jailed();

    static constexpr int kKeep[] = {kKvmFd, kReportFd, kSignalFd, kReportFd};
    JailOptions options;
    options.keep = std::span<const int>(kKeep);
    if (arguments.size() > 4)
        options.cgroup = arguments[4];
    auto report = enter_jail(options);
    if (!report) {
        say("error " + report.error().message + "\n");
        return kBroken;
    }
    std::string text;
    for (const JailItem& item : report->items)
        text += item.name + (item.holds ? " holds\n" : " lacks " + item.why + "\n");
    say(text + ".\n");
    std::optional<Role> restricted;
    if (role == "zygote")
        restricted = Role::zygote;
    else if (role == "loop")
        restricted = Role::loop;
    else if (role == "vcpu")
        restricted = Role::vcpu;
    else if (role == "resolver")
        restricted = Role::resolver;
    else if (role == "keeper")
        restricted = Role::keeper;
    if (restricted && !restrict_thread(*restricted))
        return kBroken;
    for (const auto* list :
         {&attempts_without_filter(), &attempts_against_filter(), &workloads()}) {
        for (const Attempt& attempt : *list) {
            if (attempt.name == name)
                return attempt.run(number);
        }
    }
    return kBroken;
}

}  // namespace
}  // namespace spore::probe

int main(int argc, char** argv) {
    // No destructor, no handler: the attempt is the last that happens.
    ::_exit(spore::probe::main_with(std::span(argv, static_cast<size_t>(argc))));
}
