// Networks of a user who may make none on the host, as hypervisor/sandbox/card.cc makes them.

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/base/connect_unix.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/user_network.h"
#include "tests/network/world.h"

namespace spore {

namespace {

constexpr unsigned kUser = 12345;
std::string program;

[[noreturn]] void become_pasta(const std::filesystem::path& directory, int ready) {
    std::vector<std::string> words = {"env", "--default-signal=PIPE"};
    if (auto pasta = pasta_arguments())
        words.insert(words.end(), pasta->begin(), pasta->end());
    for (const std::string& word :
         {std::string("--"), program, std::string("network-keeper"), std::string("--ready-fd=3")})
        words.push_back(word);
    std::vector<char*> arguments;
    for (std::string& word : words)
        arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (::dup2(ready, 3) != 3 || ::chdir(directory.c_str()) != 0 ||
        ::setresgid(kUser, kUser, kUser) != 0 || ::setresuid(kUser, kUser, kUser) != 0)
        ::_exit(1);
    ::execv("/usr/bin/env", arguments.data());
    ::_exit(1);
}

}  // namespace

bool by_passt() {
    return !program.empty();
}

std::string use_passt(const std::string& spore) {
    // Debian's is everybody's; in a container it may be root's alone.
    if (::mknod("/run/tun", S_IFCHR | 0666, makedev(10, 200)) != 0 ||
        ::chmod("/run/tun", 0666) != 0 ||
        ::mount("/run/tun", "/dev/net/tun", nullptr, MS_BIND, nullptr) != 0)
        return std::string("no /dev/net/tun: ") + std::strerror(errno);
    if (auto possible = check_user_network(); !possible)
        return possible.error().message;
    // As systemd has it.
    if (auto pings = set_sysctl("ipv4/ping_group_range", "0 2147483647"); !pings)
        return pings.error().message;
    pid_t child = ::fork();
    if (child == 0) {
        bool can = ::setresgid(kUser, kUser, kUser) == 0 && ::setresuid(kUser, kUser, kUser) == 0 &&
                   ::access(spore.c_str(), X_OK) == 0 &&
                   ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
        ::_exit(can ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    if (status != 0)
        return "another user can make no namespaces here, or cannot run " + spore;
    program = spore;
    return "";
}

Result<UniqueFd> make_passt_network(const std::filesystem::path& directory,
                                    const NetworkPolicy& policy, const NetworkBounds& bounds) {
    TRY(prepare_user_network(directory, policy, bounds));
    int given = ::chown(directory.c_str(), kUser, kUser);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory))
        given |= ::chown(entry.path().c_str(), kUser, kUser);
    int ends[2];
    if (given != 0 || ::pipe(ends) != 0)
        return fail_errno("the user's directory");
    pid_t pasta = ::fork();
    if (pasta == 0)
        become_pasta(directory, ends[1]);
    ::close(ends[1]);
    std::string said = read_from(ends[0]);
    ::close(ends[0]);
    if (said != "ready\n")
        return fail(Code::unavailable, "the keeper says: " + said);
    return take_user_tap(directory);
}

pid_t keeper_of(const std::filesystem::path& directory) {
    auto socket = connect_unix(directory, "passt/socket", SOCK_SEQPACKET);
    ucred peer = {};
    socklen_t size = sizeof(peer);
    if (!socket || ::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return -1;
    return peer.pid;
}

}  // namespace spore
