#include "agent/guest.h"
#include "hypervisor/base/agent_limits.h"

#include <arpa/inet.h>

#include <algorithm>

namespace spore {

namespace {

constexpr size_t kHostnameBytesMax = 63;  // one label (RFC 1123 §2.1)
constexpr size_t kMachineIdBytes = 32;    // machine-id(5)
constexpr size_t kDnsServersMax = 3;      // MAXNS of resolv.conf(5)

bool is_letter_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

Result<std::string> hostname_of(std::string_view name) {
    const bool good = !name.empty() && name.size() <= kHostnameBytesMax && name.front() != '-' &&
                      name.back() != '-' && std::all_of(name.begin(), name.end(), [](char c) {
                          return is_letter_or_digit(c) || c == '-';
                      });
    if (!good) {
        return fail(Code::invalid_argument, "host name '" + std::string(name.substr(0, 80)) +
                                                "': must be 1 to 63 letters, digits and hyphens");
    }
    return std::string(name);
}

Result<std::string> machine_id_of(std::string_view id) {
    const bool good = id.size() == kMachineIdBytes && std::all_of(id.begin(), id.end(), [](char c) {
                          return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                      });
    if (!good) {
        return fail(Code::invalid_argument, "machine ID '" + std::string(id.substr(0, 80)) +
                                                "': must be 32 lower-case hexadecimal digits");
    }
    return std::string(id);
}

Result<std::span<const std::byte>> entropy_of(std::span<const std::byte> entropy) {
    if (entropy.size() < limits::kEntropyBytesMin || entropy.size() > limits::kEntropyBytesMax) {
        return fail(Code::invalid_argument, "entropy of " + std::to_string(entropy.size()) +
                                                " bytes: must be " +
                                                std::to_string(limits::kEntropyBytesMin) + " to " +
                                                std::to_string(limits::kEntropyBytesMax));
    }
    return entropy;
}

Result<std::optional<in_addr>> address_of(std::string_view text) {
    if (text.empty())
        return std::nullopt;
    in_addr address = {};
    if (::inet_pton(AF_INET, std::string(text).c_str(), &address) != 1) {
        return fail(Code::invalid_argument,
                    "address '" + std::string(text.substr(0, 80)) + "': is not an IPv4 address");
    }
    return address;
}

Result<NetworkSettings> network_of(const wire::Network& network) {
    NetworkSettings settings;
    if (const auto mac = view(network.mac()); !mac.empty()) {
        if (mac.size() != 6 || (static_cast<uint8_t>(mac[0]) & 1) != 0)
            return fail(Code::invalid_argument, "MAC address: must be 6 bytes, not multicast");
        auto& bytes = settings.mac.emplace();
        std::transform(mac.begin(), mac.end(), bytes.begin(),
                       [](std::byte byte) { return static_cast<uint8_t>(byte); });
    }
    settings.address = TRY(address_of(view(network.address())));
    settings.gateway = TRY(address_of(view(network.gateway())));
    settings.prefix_bits = network.prefix_bits();
    if (settings.prefix_bits > 32)
        return fail(Code::invalid_argument, "network prefix: must be 0 to 32 bits");
    if (settings.gateway && !settings.address)
        return fail(Code::invalid_argument, "gateway: needs an address beside it");
    for (const std::string& server : TRY(copy_strings(network.dns(), "dns"))) {
        if (const auto address = TRY(address_of(server)))
            settings.dns.push_back(*address);
    }
    if (settings.dns.size() > kDnsServersMax)
        return fail(Code::invalid_argument, "DNS servers: 3 at most");
    return settings;
}

}  // namespace

Status Guest::may_run() const {
    if (state_ == wire::State::ready)
        return {};
    return fail(Code::unavailable, "this clone has no identity yet");
}

Status Guest::identify(const wire::Identity& identity) {
    const auto entropy = TRY(entropy_of(view(identity.entropy())));
    const std::string hostname = TRY(hostname_of(view(identity.hostname())));
    const std::string machine_id = TRY(machine_id_of(view(identity.machine_id())));
    std::optional<NetworkSettings> network;
    if (identity.network() != nullptr)
        network = TRY(network_of(*identity.network()));
    Environment environment = default_environment();
    for (const std::string& assignment : TRY(copy_strings(identity.env(), "env")))
        TRY(environment.set(assignment));

    state_ = wire::State::sealed;  // until the last step is done
    TRY(system_.add_entropy(entropy));
    if (identity.wall_clock_ns() != 0)
        TRY(system_.step_clock(identity.wall_clock_ns()));
    TRY(system_.set_hostname(hostname));
    TRY(system_.set_machine_id(machine_id));
    TRY(system_.renew_boot_id());
    if (network)
        TRY(system_.configure_network(*network));
    TRY(system_.thaw_commands());
    environment_ = std::move(environment);
    state_ = wire::State::ready;
    return {};
}

Status Guest::set_clock(const wire::SetClock& clock) {
    TRY(may_run());
    return system_.step_clock(clock.wall_clock_ns());
}

Status Guest::set_environment(const wire::SetEnvironment& request) {
    TRY(may_run());
    Environment environment = environment_;
    for (const std::string& assignment : TRY(copy_strings(request.set(), "set")))
        TRY(environment.set(assignment));
    for (const std::string& name : TRY(copy_strings(request.unset(), "unset")))
        environment.unset(name);
    environment_ = std::move(environment);
    return {};
}

Status Guest::set_limits(const wire::SetLimits& request) {
    TRY(may_run());
    return system_.limit_commands({request.processes(), request.memory_bytes()});
}

Status Guest::grow_root(const wire::GrowRoot& request) {
    TRY(may_run());
    return system_.grow_root(request.bytes());
}

Status Guest::prepare_snapshot() {
    state_ = wire::State::sealed;
    TRY(system_.freeze_commands());
    TRY(system_.shed_identity());
    return system_.sync_disks();
}

}  // namespace spore
