#include "hypervisor/sandbox/card.h"

#include "hypervisor/network/layout.h"
#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore {

Result<NetworkPolicy> complete_policy(const NetworkWords& words) {
    NetworkPolicy policy = TRY(parse_policy(words));
    if (policy.dns == 0 && policy.mode != NetworkMode::none)
        policy.dns = host_nameserver();
    return policy;
}

AgentNetwork card_settings() {
    AgentNetwork network;
    network.address = network_layout::kGuestAddress;
    network.prefix_bits = network_layout::kGuestPrefixBits;
    network.gateway = network_layout::kGatewayAddress;
    network.dns = {network_layout::kGatewayAddress};
    return network;
}

std::vector<std::string> card_arguments(bool with_mac) {
    std::string value = "tap-fd=4";
    if (with_mac)
        value += std::string(",mac=") + network_layout::kGuestMac;
    return {"--net", value};
}

Status update_network(const Home& home, const std::string& id, const NetworkWords& words) {
    auto policy = TRY(complete_policy(words));
    auto info = TRY(find_sandbox(home, id));
    auto directory = run_directory(home, id);
    auto lock = DirectoryLock::take(directory);
    if (!lock || !lock->holds(directory))
        return fail(Code::unavailable, "sandbox '" + id + "': is being changed or destroyed");
    if (!has_network(directory))
        return fail(Code::invalid_argument,
                    "sandbox '" + id + "': its template '" + info.record.template_name +
                        "' was made without a network card (spore template create --network)");
    // First what is meant, then what holds: killed in between, the rules are the old ones, and
    // inspect_network() tells that they are not what the record says.
    info.record.network = words;
    TRY(save_record(directory, info.record));
    return apply_policy(directory, policy);
}

}  // namespace spore
