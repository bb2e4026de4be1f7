#include "hypervisor/network/sandbox_network.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "hypervisor/network/guest_side.h"
#include "hypervisor/network/layout.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/network_files.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"
#include "hypervisor/network/user_network.h"

namespace spore {

namespace stdfs = std::filesystem;
namespace net = network_layout;

namespace {

Result<uint32_t> random_number() {
    uint32_t number = 0;
    if (::getrandom(&number, sizeof(number), 0) != sizeof(number))
        return fail_errno("getrandom");
    return number;
}

// A name that nobody has, and the directory's link to it.
Result<NetworkFiles> claim(const stdfs::path& directory) {
    if (::mkdir(net::kDirectory, 0700) != 0 && errno != EEXIST)
        return fail_errno(net::kDirectory);
    char token[20];
    std::snprintf(token, sizeof(token), "%08x%08x", TRY(random_number()), TRY(random_number()));
    NetworkFiles files(stdfs::path(net::kDirectory) / token);
    if (::symlink(files.root().c_str(), (directory / kNetworkLink).c_str()) != 0)
        return fail_errno((directory / kNetworkLink).string());
    if (::mkdir(files.root().c_str(), 0700) != 0)
        return fail_errno(files.root().string());
    return files;
}

// Of the calling thread's namespace. The mount is seen by whoever shares our mount namespace.
Status pin_own_namespace(const stdfs::path& path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path.string());
    if (::mount("/proc/thread-self/ns/net", path.c_str(), nullptr, MS_BIND, nullptr) != 0)
        return fail_errno("binding a network namespace to " + path.string());
    return {};
}

// The pair of interfaces: `number` is one that no other sandbox of this host has, which the kernel
// knows best.
Result<uint32_t> make_link(RouteSocket& route, int host) {
    for (int tries = 0; tries < limits::kNetworkLinkTriesMax; tries++) {
        uint32_t number = TRY(random_number()) % limits::kNetworkLinksMax;
        auto made = route.make_pair(net::kUplink, net::kLinkPrefix + std::to_string(number), host);
        if (made)
            return number;
        if (made.error().code != Code::already_exists)
            return std::unexpected(std::move(made).error());
    }
    return fail(Code::resource_exhausted,
                std::string("network: ") + std::to_string(limits::kNetworkLinkTriesMax) +
                    " names of interfaces from " + net::kLinkPrefix + "0 to " +
                    std::to_string(limits::kNetworkLinksMax - 1) + " are all taken");
}

struct Inside {
    UniqueFd tap;
    uint32_t number = 0;
};

// What is in the namespace; runs in it. Rules come before anything is up.
Result<Inside> furnish(const NetworkFiles& files, int host, const std::string& rules) {
    Inside inside;
    TRY(pin_own_namespace(files.pin()));
    inside.tap = TRY(make_guest_side(rules));
    auto route = TRY(RouteSocket::open());
    inside.number = TRY(make_link(route, host));
    TRY(route.add_address(net::kUplink, link_address(inside.number) + 1, 31));
    TRY(route.set_up(net::kUplink, true));
    TRY(route.add_default_route(link_address(inside.number)));
    return inside;
}

// The host's end of the link, which stays down.
Status furnish_host(const std::string& link, uint32_t number) {
    auto route = TRY(RouteSocket::open());
    TRY(route.add_address(link, link_address(number), 31));
    for (const char* name : {"forwarding", "rp_filter"})
        TRY(set_sysctl("ipv4/conf/" + link + "/" + name, "1"));
    for (const char* name : {"accept_redirects", "send_redirects", "accept_source_route"})
        TRY(set_sysctl("ipv4/conf/" + link + "/" + name, "0"));
    if (sysctl("ipv6/conf/" + link + "/disable_ipv6"))
        TRY(set_sysctl("ipv6/conf/" + link + "/disable_ipv6", "1"));
    return {};
}

Status set_gate(const std::string& link, bool open) {
    return TRY(RouteSocket::open()).set_up(link, open);
}

// New rules, in place of the old ones in one step; then what was open under the old ones is
// forgotten, so that its next packet is looked at as a new connection's.
Status replace_rules(const NetworkFiles& files, const std::string& rules) {
    UniqueFd pin(::open(files.pin().c_str(), O_RDONLY | O_CLOEXEC));
    if (!pin)
        return fail_errno(files.pin().string());
    // Whatever happens in between, it is not said of rules that they hold before they do.
    TRY(files.forget_rules());
    TRY(in_namespace(pin.get(), [&]() -> Status {
        TRY(run_nft(rules));
        return flush_connections();
    }));
    return files.write_rules(rules);
}

}  // namespace

Status set_sysctl(const std::string& name, const char* value) {
    std::string path = "/proc/sys/net/" + name;
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file || ::write(file.get(), value, std::strlen(value)) < 0)
        return fail_errno(path);
    return {};
}

Result<std::string> sysctl(const std::string& name) {
    std::string path = "/proc/sys/net/" + name;
    std::ifstream file(path);
    std::string value;
    if (!(file >> value))
        return fail(Code::not_found, path + ": cannot be read");
    return value;
}

Result<UniqueFd> make_network(const stdfs::path& directory, const NetworkPolicy& policy,
                              const NetworkBounds& bounds) {
    TRY(check_host_network());
    TRY(ensure_host_rules());
    auto rules = TRY(sandbox_rules(policy, bounds));
    UniqueFd host = TRY(own_namespace());
    auto files = TRY(claim(directory));
    auto inside = TRY(in_namespace(-1, [&] { return furnish(files, host.get(), rules); }));
    TRY(files.write_rules(rules));
    std::string link = net::kLinkPrefix + std::to_string(inside.number);
    TRY(files.write_link(link));
    TRY(furnish_host(link, inside.number));
    return std::move(inside.tap);
}

bool may_make_networks() {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[2] = {};
    if (::syscall(SYS_capget, &header, sets) != 0)
        return false;
    constexpr uint32_t kNeeded = 1u << CAP_NET_ADMIN | 1u << CAP_SYS_ADMIN;
    return (sets[0].effective & kNeeded) == kNeeded;
}

bool has_network(const stdfs::path& directory) {
    return NetworkFiles::of(directory).has_value() || has_user_network(directory);
}

Status apply_policy(const stdfs::path& directory, const NetworkPolicy& policy,
                    const NetworkBounds& bounds) {
    if (has_user_network(directory))
        return apply_user_policy(directory, policy, bounds);
    auto files = NetworkFiles::of(directory);
    if (!files)
        return fail(Code::not_found, "network: the sandbox has none");
    auto link = TRY(files->read_link());
    auto apply = [&]() -> Status {
        TRY(ensure_host_rules());
        auto rules = TRY(sandbox_rules(policy, bounds));
        if (auto loaded = files->read_rules(); !loaded || *loaded != rules)
            TRY(replace_rules(*files, rules));
        return set_gate(link, policy.mode != NetworkMode::none);
    };
    auto applied = apply();
    if (applied)
        return {};
    auto closed = set_gate(link, false);
    std::string and_now = closed ? "; nothing passes now"
                                 : "; and its link could not be closed: " + closed.error().message;
    return fail(applied.error().code, applied.error().message + and_now);
}

Status set_waiting_network(const stdfs::path& directory, bool open) {
    auto files = NetworkFiles::of(directory);
    if (!files)
        return fail(Code::not_found, "network: the clone has none on the host");
    return set_gate(TRY(files->read_link()), open);
}

Result<std::string> rules_now(const NetworkPolicy& policy) {
    return sandbox_rules(policy, {});
}

Status remove_network(const stdfs::path& directory) {
    if (has_user_network(directory))
        return remove_user_network(directory);
    auto files = NetworkFiles::of(directory);
    if (!files)
        return {};
    TRY(files->remove());
    if (::unlink((directory / kNetworkLink).c_str()) != 0 && errno != ENOENT)
        return fail_errno((directory / kNetworkLink).string());
    return {};
}

Status keep_only_the_network() {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[2] = {};
    sets[0].effective = sets[0].permitted = 1u << CAP_NET_ADMIN;
    if (::syscall(SYS_capset, &header, sets) != 0 ||
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_DUMPABLE, 0) != 0)
        return fail_errno("giving up privileges");
    return {};
}

}  // namespace spore
