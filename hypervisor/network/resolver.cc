#include "hypervisor/network/resolver.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "hypervisor/base/network_limits.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/network/dns_message.h"
#include "hypervisor/network/layout.h"
#include "hypervisor/network/namespace.h"
#include "hypervisor/network/network_files.h"
#include "hypervisor/network/nft.h"
#include "hypervisor/network/user_network.h"

namespace spore {

namespace {

using Clock = std::chrono::steady_clock;
namespace net = network_layout;

constexpr uint16_t kDnsPort = 53;
constexpr size_t kMessageBytesMax = 4096;

sockaddr_in socket_address(uint32_t address) {
    sockaddr_in inet = {};
    inet.sin_family = AF_INET;
    inet.sin_port = htons(kDnsPort);
    inet.sin_addr.s_addr = htonl(address);
    return inet;
}

// Into the namespace of the clone in `directory`. Whether it is one of a user's, who is alone in
// it.
Result<bool> enter_network(const std::filesystem::path& directory) {
    if (has_user_network(directory)) {
        TRY(enter_user_network(directory));
        return true;
    }
    auto files = NetworkFiles::of(directory);
    if (!files)
        return fail(Code::not_found, "network: the sandbox has none");
    UniqueFd pin(::open(files->pin().c_str(), O_RDONLY | O_CLOEXEC));
    if (!pin || ::setns(pin.get(), CLONE_NEWNET) != 0)
        return fail_errno(files->pin().string());
    return false;
}

// From here on this process may change the network of its namespace, and nothing else.
Status become_user_of_the_network(bool of_a_user, unsigned user) {
    if (!of_a_user && (::prctl(PR_SET_KEEPCAPS, 1) != 0 || ::setgroups(0, nullptr) != 0 ||
                       ::setresgid(user, user, user) != 0 || ::setresuid(user, user, user) != 0))
        return fail_errno("becoming user " + std::to_string(user));
    return keep_only_the_network();
}

bool matches(const NetworkRule& rule, const std::string& name) {
    if (rule.domain.empty())
        return false;
    return rule.below ? name.size() > rule.domain.size() + 1 && name.ends_with("." + rule.domain)
                      : name == rule.domain;
}

// The policy opens these by their own rules or not at all, whatever name leads there.
bool is_special(uint32_t address) {
    auto contains = [&](const Ipv4Range& range) { return range.contains({address, 32}); };
    return std::ranges::any_of(never_ranges(), contains) ||
           std::ranges::any_of(private_ranges(), contains);
}

}  // namespace

std::vector<uint16_t> allowed_ports(const NetworkPolicy& policy, const std::string& name) {
    std::vector<uint16_t> ports;
    auto is_it = [&](const NetworkRule& rule) { return matches(rule, name); };
    if (std::ranges::any_of(policy.deny, is_it))
        return ports;
    for (const NetworkRule& rule : policy.allow) {
        if (matches(rule, name))
            ports.push_back(rule.port);
    }
    return ports;
}

struct Resolver::State {
    // A question that the nameserver has been asked.
    struct Pending {
        DnsQuestion question;
        std::vector<uint16_t> ports;
        sockaddr_in guest;
        UniqueFd server;
        uint16_t id;
        Clock::time_point deadline;
    };
    // What is open: an address on a port (0: all), until when.
    using Open = std::map<std::pair<uint32_t, uint16_t>, Clock::time_point>;

    NetworkPolicy policy;
    UniqueFd vmm;
    UniqueFd guest;
    std::vector<Pending> pending;
    Open open;

    void take_question();
    Status ask(const DnsQuestion& question, std::vector<uint16_t> ports, const sockaddr_in& from);
    void take_answer(Pending& one);
    Status open_addresses(DnsAnswer& answer, const std::vector<uint16_t>& ports);
    void reply(const DnsQuestion& question, const sockaddr_in& to, const DnsAnswer& answer);
    int wait_ms() const;
};

Resolver::Resolver(std::unique_ptr<State> state) : state_(std::move(state)) {}
Resolver::Resolver(Resolver&&) noexcept = default;
Resolver::~Resolver() = default;

Result<Resolver> Resolver::begin(const ResolverPlan& plan) {
    auto state = std::make_unique<State>();
    state->policy = plan.policy;
    state->vmm.reset(static_cast<int>(::syscall(SYS_pidfd_open, plan.vmm_pid, 0)));
    if (!state->vmm)
        return fail_errno("process " + std::to_string(plan.vmm_pid));
    bool of_a_user = TRY(enter_network(plan.directory));
    state->guest.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in here = socket_address(TRY(parse_ipv4("gateway", net::kGatewayAddress)));
    if (!state->guest ||
        ::bind(state->guest.get(), reinterpret_cast<sockaddr*>(&here), sizeof(here)) != 0)
        return fail_errno("dns: port 53", errno == EADDRINUSE ? EEXIST : errno);
    TRY(find_nft());
    TRY(plan.shut_in());
    TRY(become_user_of_the_network(of_a_user, plan.user));
    return Resolver(std::move(state));
}

Status Resolver::serve() {
    for (;;) {
        std::vector<pollfd> watched = {{state_->vmm.get(), POLLIN, 0},
                                       {state_->guest.get(), POLLIN, 0}};
        for (const State::Pending& one : state_->pending)
            watched.push_back({one.server.get(), POLLIN, 0});
        if (::poll(watched.data(), watched.size(), state_->wait_ms()) < 0 && errno != EINTR)
            return fail_errno("poll");
        if (watched[0].revents != 0)
            return {};
        for (size_t index = 2; index < watched.size(); index++) {
            if (watched[index].revents != 0)
                state_->take_answer(state_->pending[index - 2]);
        }
        std::erase_if(state_->pending, [](const State::Pending& one) {
            return !one.server || one.deadline <= Clock::now();
        });
        if (watched[1].revents != 0)
            state_->take_question();
    }
}

int Resolver::State::wait_ms() const {
    auto next = std::ranges::min_element(pending, {}, &Pending::deadline);
    if (next == pending.end())
        return -1;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(next->deadline - Clock::now());
    return static_cast<int>(std::max<int64_t>(left.count(), 0));
}

void Resolver::State::take_question() {
    std::byte buffer[kMessageBytesMax];
    sockaddr_in from = {};
    socklen_t size = sizeof(from);
    ssize_t got = ::recvfrom(guest.get(), buffer, sizeof(buffer), 0,
                             reinterpret_cast<sockaddr*>(&from), &size);
    if (got < 0)
        return;
    auto question = parse_question(std::span(buffer, static_cast<size_t>(got)));
    if (!question)
        return;
    auto ports = allowed_ports(policy, question->name);
    if (ports.empty())
        return reply(*question, from, {DnsStatus::refused, {}});
    if (question->type != kDnsTypeA)  // IPv6 is off, and nothing else leads to an address
        return reply(*question, from, {DnsStatus::ok, {}});
    if (pending.size() >= limits::kDnsPendingMax || !ask(*question, std::move(ports), from))
        reply(*question, from, {DnsStatus::failed, {}});
}

// A socket and a number of its own for each, so that nobody else's answer is taken for it.
Status Resolver::State::ask(const DnsQuestion& question, std::vector<uint16_t> ports,
                            const sockaddr_in& from) {
    Pending one{question, std::move(ports), from, {}, 0, {}};
    one.deadline = Clock::now() + std::chrono::milliseconds(limits::kDnsWaitMs);
    if (policy.dns == 0)
        return fail(Code::unavailable, "dns: this host has no nameserver that can be reached");
    if (::getrandom(&one.id, sizeof(one.id), 0) != sizeof(one.id))
        return fail_errno("getrandom");
    one.server.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in server = socket_address(policy.dns);
    auto query = make_query(question, one.id);
    if (!one.server ||
        ::connect(one.server.get(), reinterpret_cast<sockaddr*>(&server), sizeof(server)) != 0 ||
        ::send(one.server.get(), query.data(), query.size(), 0) < 0)
        return fail_errno("dns: " + ipv4_text(policy.dns));
    pending.push_back(std::move(one));
    return {};
}

// Leaves one that has its answer without a socket.
void Resolver::State::take_answer(Pending& one) {
    std::byte buffer[kMessageBytesMax];
    ssize_t got = ::recv(one.server.get(), buffer, sizeof(buffer), 0);
    if (got < 0) {
        one.server.reset();
        return reply(one.question, one.guest, {DnsStatus::failed, {}});
    }
    auto answer = parse_answer(std::span(buffer, static_cast<size_t>(got)), one.question, one.id);
    if (!answer)
        return;  // somebody else's guess; the right one may yet come
    one.server.reset();
    if (!open_addresses(*answer, one.ports))
        *answer = {DnsStatus::failed, {}};
    reply(one.question, one.guest, *answer);
}

// Before the guest hears of them. An address is open as long as the longest that was promised.
Status Resolver::State::open_addresses(DnsAnswer& answer, const std::vector<uint16_t>& ports) {
    auto now = Clock::now();
    std::erase_if(open, [&](const auto& entry) { return entry.second <= now; });
    std::string rules;
    Open next = open;
    for (const DnsAddress& given : answer.addresses) {
        if (is_special(given.address))
            continue;
        uint32_t seconds = std::max(given.ttl_seconds, limits::kDnsOpenSecondsMin);
        for (uint16_t port : ports) {
            auto& until = next[{given.address, port}];
            if (until >= now + std::chrono::seconds(seconds))
                continue;
            until = now + std::chrono::seconds(seconds);
            std::string set = std::string("element inet ") + net::kTable +
                              (port == 0 ? " names { " : " names_ports { ");
            std::string element =
                ipv4_text(given.address) + (port == 0 ? "" : " . " + std::to_string(port));
            // One that is there keeps its time, so it is taken away first: in one transaction.
            rules += "add " + set + element + " timeout 1s }\ndelete " + set + element +
                     " }\nadd " + set + element + " timeout " + std::to_string(seconds) + "s }\n";
        }
    }
    if (next.size() > limits::kDnsOpenMax)
        return fail(Code::resource_exhausted, "dns: " + std::to_string(next.size()) +
                                                  " addresses are open, at most " +
                                                  std::to_string(limits::kDnsOpenMax));
    if (!rules.empty())
        TRY(run_nft(rules));
    open = std::move(next);
    return {};
}

void Resolver::State::reply(const DnsQuestion& question, const sockaddr_in& to,
                            const DnsAnswer& answer) {
    auto message = make_answer(question, answer);
    // A guest that does not take it asks again.
    (void)!::sendto(guest.get(), message.data(), message.size(), MSG_DONTWAIT,
                    reinterpret_cast<const sockaddr*>(&to), sizeof(to));
}

}  // namespace spore
