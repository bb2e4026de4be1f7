#include "hypervisor/network/user_network.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "hypervisor/base/connect_unix.h"
#include "hypervisor/base/remove_tree.h"
#include "hypervisor/base/small_file.h"
#include "hypervisor/network/guest_side.h"
#include "hypervisor/network/layout.h"
#include "hypervisor/network/network_files.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/sandbox_network.h"
#include "hypervisor/network/user_requests.h"

namespace spore {

namespace stdfs = std::filesystem;
namespace net = network_layout;
namespace ask = user_requests;

namespace {

struct Answer {
    std::string text;
    UniqueFd file;
};

NetworkFiles files_of(const stdfs::path& directory) {
    return NetworkFiles(directory / ask::kDirectory);
}

// Errors: unavailable (no keeper), what it answers.
Result<Answer> request(const stdfs::path& directory, char what, const std::string& text = {}) {
    auto socket = TRY(connect_unix(directory, ask::kSocket, SOCK_SEQPACKET));
    timeval patience = {ask::kAnswerSecondsMax, 0};
    for (int way : {SO_RCVTIMEO, SO_SNDTIMEO})
        (void)::setsockopt(socket.get(), SOL_SOCKET, way, &patience, sizeof(patience));
    std::string packet = what + text;
    if (::send(socket.get(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0)
        return fail_errno("network: asking its keeper");
    Answer answer;
    std::string buffer(ask::kPacketBytesMax, '\0');
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    iovec part = {buffer.data(), buffer.size()};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof(space);
    ssize_t got = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
    if (got <= 0)
        return fail(Code::unavailable, "network: its keeper has ended");
    if (cmsghdr* header = CMSG_FIRSTHDR(&message);
        header != nullptr && header->cmsg_type == SCM_RIGHTS) {
        int file = -1;
        std::memcpy(&file, CMSG_DATA(header), sizeof(file));
        answer.file.reset(file);
    }
    buffer.resize(static_cast<size_t>(got));
    if (buffer.starts_with("ok\n")) {
        answer.text = buffer.substr(3);
        return answer;
    }
    size_t space_at = std::min(buffer.find(' '), buffer.size());
    return fail(code_from_name(buffer.substr(0, space_at)),
                "network: " + buffer.substr(std::min(space_at + 1, buffer.size())));
}

// As this process sees it, whatever it is called in there.
Result<pid_t> keeper_of(const stdfs::path& directory) {
    auto socket = TRY(connect_unix(directory, ask::kSocket, SOCK_SEQPACKET));
    ucred peer = {};
    socklen_t size = sizeof(peer);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return fail_errno("SO_PEERCRED");
    return peer.pid;
}

// With it goes its PID namespace, its tap and pasta.
Status end_keeper(const stdfs::path& directory) {
    auto pid = keeper_of(directory);
    if (!pid)
        return {};
    UniqueFd keeper(static_cast<int>(::syscall(SYS_pidfd_open, *pid, 0)));
    // That nobody else has its number by now: it still listens.
    if (!keeper || keeper_of(directory).value_or(-1) != *pid)
        return {};
    if (::syscall(SYS_pidfd_send_signal, keeper.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH)
        return fail_errno("signal to process " + std::to_string(*pid));
    return {};
}

// The addresses that the rules of now refuse as the host's.
Result<std::string> host_text() {
    std::string text;
    for (uint32_t address : TRY(host_addresses()))
        text += ipv4_text(address) + "\n";
    return text;
}

Status load_rules(const stdfs::path& directory, const std::string& rules) {
    auto files = files_of(directory);
    TRY(files.forget_rules());
    auto loaded = TRY(request(directory, ask::kLoadRules, rules));
    TRY(replace_file(files.root() / "listing", loaded.text));
    TRY(replace_file(files.root() / "host", TRY(host_text())));
    return files.write_rules(rules);
}

Result<std::string> find_pasta() {
    for (const char* path : {"/usr/bin/pasta", "/usr/local/bin/pasta"}) {
        if (::access(path, X_OK) == 0)
            return std::string(path);
    }
    return fail(Code::host_unsupported,
                "network: there is no pasta in /usr/bin: apt-get install passt");
}

}  // namespace

Status check_user_network() {
    TRY(find_pasta());
    TRY(find_nft());
    if (::access("/dev/net/tun", R_OK | W_OK) != 0)
        return fail(Code::host_unsupported,
                    "network: no way to /dev/net/tun: modprobe tun && chmod 666 /dev/net/tun");
    for (const char* name : {"kernel/unprivileged_userns_clone", "user/max_user_namespaces",
                             "user/max_net_namespaces"}) {
        auto value = read_file(std::string("/proc/sys/") + name);
        if (value && *value == "0\n") {
            std::string key = name;
            std::ranges::replace(key, '/', '.');
            return fail(Code::host_unsupported,
                        "network: this host refuses a user's namespaces: sysctl -w " + key +
                            (key.starts_with("kernel") ? "=1" : "=10000"));
        }
    }
    return {};
}

Result<std::vector<std::string>> pasta_arguments() {
    return std::vector<std::string>{
        TRY(find_pasta()),
        // It logs to us, and ends with what it starts.
        "--quiet", "--foreground", "--stderr",
        // One interface, set up before that starts.
        "--config-net", "--ns-ifname", net::kUplink, "--address", net::kUserAddress, "--netmask",
        net::kUserPrefixBits, "--gateway", net::kUserGateway,
        // Nothing but connections outwards: no IPv6, no way to the host's loopback, no ports of the
        // host's or of the namespace's, no service of its own.
        "--ipv4-only", "--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns",
        "none", "--udp-ns", "none", "--dns", "none", "--no-dhcp", "--no-dhcpv6", "--no-ndp",
        "--no-ra"};
}

Status prepare_user_network(const stdfs::path& directory, const NetworkPolicy& policy,
                            const NetworkBounds& bounds) {
    auto files = files_of(directory);
    if (::mkdir(files.root().c_str(), 0700) != 0)
        return fail_errno(files.root().string());
    TRY(replace_file(files.root() / "host", TRY(host_text())));
    return files.write_rules(TRY(sandbox_rules(policy, bounds)));
}

Result<UniqueFd> take_user_tap(const stdfs::path& directory) {
    auto answer = TRY(request(directory, ask::kTakeTap));
    if (!answer.file)
        return fail(Code::internal, "network: its keeper has sent no tap");
    return std::move(answer.file);
}

bool has_user_network(const stdfs::path& directory) {
    std::error_code error;
    return stdfs::is_directory(stdfs::symlink_status(directory / ask::kDirectory, error));
}

Status enter_user_network(const stdfs::path& directory) {
    std::string of = "/proc/" + std::to_string(TRY(keeper_of(directory))) + "/ns/";
    UniqueFd user(::open((of + "user").c_str(), O_RDONLY | O_CLOEXEC));
    UniqueFd network(::open((of + "net").c_str(), O_RDONLY | O_CLOEXEC));
    if (!user || !network || ::setns(user.get(), CLONE_NEWUSER) != 0 ||
        ::setns(network.get(), CLONE_NEWNET) != 0)
        return fail_errno("entering a user's network namespace");
    return {};
}

Status apply_user_policy(const stdfs::path& directory, const NetworkPolicy& policy,
                         const NetworkBounds& bounds) {
    auto apply = [&]() -> Status {
        auto rules = TRY(sandbox_rules(policy, bounds));
        auto loaded = files_of(directory).read_rules();
        if (!loaded || *loaded != rules)
            TRY(load_rules(directory, rules));
        TRY(request(directory,
                    policy.mode == NetworkMode::none ? ask::kCloseGate : ask::kOpenGate));
        return {};
    };
    auto applied = apply();
    if (applied)
        return {};
    // Without a keeper that answers there is no network at all.
    if (!request(directory, ask::kCloseGate))
        (void)end_keeper(directory);
    return fail(applied.error().code, applied.error().message + "; nothing passes now");
}

Status remove_user_network(const stdfs::path& directory) {
    TRY(end_keeper(directory));
    return remove_tree(directory / ask::kDirectory);
}

Result<NetworkReport> inspect_user_network(const stdfs::path& directory) {
    auto files = files_of(directory);
    NetworkReport report;
    report.by = "passt";
    report.link = net::kUplink;
    report.address = net::kUserAddress;
    auto is = request(directory, ask::kList);
    report.open = is && is->text.starts_with("up\n");
    auto rules = files.read_rules();
    auto should = read_file(files.root() / "listing");
    if (!is)
        report.what_changed = "nothing passes: " + is.error().message;
    else if (!rules || !should)
        report.what_changed = "its rules were being changed, and that has failed";
    else if (std::string found = is->text.substr(is->text.find('\n') + 1); found != *should)
        report.what_changed = first_difference(found, *should);
    else if (auto now = host_text(), then = read_file(files.root() / "host");
             !now || !then || *now != *then)
        report.what_changed =
            "the host has other addresses than when the rules that refuse them were loaded; spore "
            "update ID --network loads them again";
    report.intact = report.what_changed.empty();
    return report;
}

}  // namespace spore
