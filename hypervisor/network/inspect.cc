// Whether a sandbox's network and the host's own rules are still what was set up. What a rule set
// should look like is found out by loading it elsewhere: nft prints it its own way.

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>

#include "hypervisor/base/small_file.h"
#include "hypervisor/network/guest_side.h"
#include "hypervisor/network/layout.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/network_files.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/route_socket.h"
#include "hypervisor/network/sandbox_network.h"
#include "hypervisor/network/user_network.h"

namespace spore {

namespace stdfs = std::filesystem;
namespace net = network_layout;

namespace {

// How `rules` look once they are loaded. Most sandboxes have the same.
Result<std::string> expected(const std::string& rules, const std::vector<std::string>& tables) {
    static std::mutex mutex;
    static std::string last_rules, last_listing;
    std::scoped_lock lock(mutex);
    if (rules == last_rules)
        return last_listing;
    auto listed = in_namespace(-1, [&]() -> Result<std::string> {
        // The rules of the tap need one of its name; what is behind it does not matter.
        TRY(TRY(RouteSocket::open()).make_pair(net::kTap, "peer", TRY(own_namespace()).get()));
        TRY(run_nft(rules));
        return list_tables(tables);
    });
    if (listed) {
        last_rules = rules;
        last_listing = *listed;
    }
    return listed;
}

bool is_up(const std::string& link) {
    UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = {};
    link.copy(request.ifr_name, IFNAMSIZ - 1);
    return socket && ::ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0 &&
           (request.ifr_flags & IFF_UP) != 0;
}

stdfs::path host_listing() {
    return stdfs::path(net::kDirectory) / ".host-rules";
}

// The generation of the host's rules at which its table was as it should be.
stdfs::path host_generation() {
    return stdfs::path(net::kDirectory) / ".host-generation";
}

// One at a time loads the host's table and writes down how it looks.
Result<UniqueFd> lock_host_rules() {
    if (::mkdir(net::kDirectory, 0700) != 0 && errno != EEXIST)
        return fail_errno(net::kDirectory);
    UniqueFd lock(::open(net::kDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock || ::flock(lock.get(), LOCK_EX) != 0)
        return fail_errno(net::kDirectory);
    return lock;
}

const std::vector<std::string>& host_tables() {
    static const std::vector<std::string> tables = {std::string("inet ") + net::kHostTable};
    return tables;
}

// Empty: nothing is wrong.
std::string wrong_with_host_table(const std::string& is, const std::string& should) {
    if (is == should)
        return {};
    return "the host's table inet " + std::string(net::kHostTable) + ": " +
           first_difference(is, should);
}

}  // namespace

Result<NetworkReport> inspect_network(const stdfs::path& directory) {
    if (has_user_network(directory))
        return inspect_user_network(directory);
    auto files = NetworkFiles::of(directory);
    if (!files)
        return fail(Code::not_found, "network: the sandbox has none");
    NetworkReport report;
    report.link = TRY(files->read_link());
    uint32_t number = static_cast<uint32_t>(
        std::strtoul(report.link.c_str() + std::strlen(net::kLinkPrefix), nullptr, 10));
    report.address = ipv4_text(link_address(number) + 1);
    report.open = is_up(report.link);
    UniqueFd pin(::open(files->pin().c_str(), O_RDONLY | O_CLOEXEC));
    if (!pin)
        return fail_errno(files->pin().string());
    auto is = in_namespace(pin.get(), [] { return list_tables(sandbox_tables()); });
    auto rules = files->read_rules();
    auto should = is && rules ? expected(*rules, sandbox_tables()) : is;
    if (!rules)
        report.what_changed = "its rules were being changed, and that has failed";
    else if (!should)
        report.what_changed = should.error().message;
    else if (*is != *should)
        report.what_changed = first_difference(*is, *should);
    else if (auto host = check_host_rules(); !host)
        report.what_changed = host.error().message;
    report.intact = report.what_changed.empty();
    return report;
}

Status check_host_rules() {
    std::error_code error;
    if (!stdfs::exists(host_listing(), error))
        return {};
    auto should = TRY(read_file(host_listing()));
    auto wrong = wrong_with_host_table(TRY(list_tables(host_tables())), should);
    if (!wrong.empty())
        return fail(Code::unavailable, std::move(wrong));
    return {};
}

Result<std::string> ensure_host_rules() {
    // Nobody has changed any since they were as they should be: on every request's path.
    auto generation = ruleset_generation();
    auto known = read_file(host_generation());
    if (generation && known && *known == std::to_string(*generation))
        return std::string();
    UniqueFd lock = TRY(lock_host_rules());
    auto should = read_file(host_listing());
    // Told before it is looked at: a change in between makes it an old one.
    generation = ruleset_generation();
    std::string wrong;
    if (should)
        wrong = wrong_with_host_table(TRY(list_tables(host_tables())), *should);
    if (!should || !wrong.empty()) {
        TRY(run_nft(host_rules()));
        TRY(replace_file(host_listing(), TRY(list_tables(host_tables()))));
    } else if (generation) {
        TRY(replace_file(host_generation(), std::to_string(*generation)));
    }
    return wrong;
}

Status check_host_network() {
    if (!may_make_networks())
        return check_user_network();
    TRY(find_nft());
    auto forward = sysctl("ipv4/ip_forward");
    if (!forward || *forward != "1")
        return fail(Code::host_unsupported,
                    "network: this host forwards no packets: sysctl -w net.ipv4.ip_forward=1");
    return {};
}

}  // namespace spore
