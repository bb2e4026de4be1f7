// spore-agent: PID 1 of a guest, and its API over vsock.

#include <linux/close_range.h>
#include <unistd.h>

#include <climits>
#include <string_view>

#include "agent/guest_system.h"
#include "agent/init.h"
#include "agent/log.h"
#include "agent/server.h"
#include "agent/version.h"

namespace spore {
namespace {

constexpr int kUsageStatus = 64;
constexpr const char* kUsage =
    "usage: spore-agent                     as PID 1 of a guest\n"
    "       spore-agent --listen-unix PATH  serve on a UNIX socket, leaving this machine alone\n"
    "       spore-agent --version\n";

void print(int fd, std::string_view text) {
    [[maybe_unused]] const ssize_t written = ::write(fd, text.data(), text.size());
}

Status serve_detached(const std::string& path) {
    DetachedSystem system;
    auto server = TRY(Server::create(system));
    TRY(server->listen_unix(path));
    return server->run();
}

Status serve_guest() {
    TRY(start_machine());
    GuestSystem system;
    if (const Status opened = system.open(); !opened)
        log_line(opened.error().message);
    auto server = TRY(Server::create(system));
    TRY(server->listen_vsock());
    log_line("ready");
    return server->run();
}

// PID 1 never returns: the kernel would panic.
[[noreturn]] void run_guest() {
    const Status served = serve_guest();
    if (!served)
        log_line("fatal: " + served.error().message + "; power off");
    power_off_machine();
}

int run(int argc, char** argv) {
    // Whoever started the agent may have left something open; no command is to find it.
    ::close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC);
    const std::string_view option = argc > 1 ? argv[1] : "";
    if (argc == 2 && option == "--version") {
        print(STDOUT_FILENO, std::string("spore-agent ") + kAgentVersion + "\n");
        return 0;
    }
    if (argc == 3 && option == "--listen-unix") {
        const Status served = serve_detached(argv[2]);
        if (served)
            return 0;
        log_line(served.error().message);
        return exit_status(served.error().code);
    }
    // The kernel hands its own unknown parameters to init.
    if (::getpid() == 1)
        run_guest();
    print(STDERR_FILENO, kUsage);
    return kUsageStatus;
}

}  // namespace
}  // namespace spore

int main(int argc, char** argv) {
    return spore::run(argc, argv);
}
