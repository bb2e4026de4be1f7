#include "hypervisor/sandbox/card.h"

#include <sched.h>
#include <unistd.h>

#include <fstream>

#include "hypervisor/base/small_file.h"
#include "hypervisor/base/tell_ready.h"
#include "hypervisor/jail/empty_root.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/jail/own_user.h"
#include "hypervisor/network/layout.h"
#include "hypervisor/network/resolver.h"
#include "hypervisor/network/user_network.h"
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

namespace {

constexpr const char* kPasstLog = "passt.log";

// What a network by passt lacks, as `spore stats` names it.
constexpr const char* kHostRules = "network_host_rules";
constexpr const char* kNetworkCgroup = "network_cgroup";
constexpr const char* kByPasst = "its network is by passt: ";
constexpr const char* kHostRulesLack =
    "there is no second rule set on the host, and addresses that the host gets later are refused "
    "from the next spore update ID --network on";
constexpr const char* kPasstIsFree =
    "what passt and the keeper of its rules use is held to no bound: ";
constexpr const char* kResolverIsFree = "what its resolver uses is held to no bound: ";

// AppArmor's profile of Debian's pasta lets it start what lies in /usr/bin, wherever we do.
constexpr const char* kStarter = "/usr/bin/env";

// The last line that is of any use, behind the error.
Error with_log(const Error& error, const std::filesystem::path& log) {
    auto text = read_file(log);
    std::string last = text ? *text : "";
    while (!last.empty() && last.back() == '\n')
        last.pop_back();
    last = last.substr(last.rfind('\n') + 1);
    return {error.code, "passt: " + (last.empty() ? error.message : last)};
}

// Everything it needs is open, and nothing on this host has a name for it any more.
Status leave_the_host() {
    if (::unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
        return fail_errno("making namespaces");
    return enter_empty_root();
}

constexpr auto kResolverLimit = std::chrono::seconds(30);
constexpr const char* kResolverFile = "resolver";  // in the clone's directory: who it is
constexpr const char* kResolverLog = "resolver.log";

// Of none: PID 0, which is never alive.
ProcessIdentity resolver_of(const std::filesystem::path& directory) {
    std::ifstream file(directory / kResolverFile);
    ProcessIdentity process;
    if (!(file >> process.pid >> process.start_ticks))
        return {};
    return process;
}

Status end_resolver(const std::filesystem::path& directory) {
    return kill_process(resolver_of(directory), std::chrono::steady_clock::now() + kResolverLimit);
}

Status start_resolver(const std::filesystem::path& directory, const NetworkWords& words,
                      const ProcessIdentity& vmm, const Quotas& quotas) {
    std::vector<std::string> arguments = {"spore",
                                          "network-resolver",
                                          directory.string(),
                                          "--vmm",
                                          std::to_string(vmm.pid),
                                          "--ready-fd",
                                          "3",
                                          "--network",
                                          words.mode};
    for (const std::string& word : words.allow)
        arguments.insert(arguments.end(), {"--allow", word});
    for (const std::string& word : words.deny)
        arguments.insert(arguments.end(), {"--deny", word});
    if (!words.dns.empty())
        arguments.insert(arguments.end(), {"--dns", words.dns});
    auto spot = make_helper_spot(directory, Helper::resolver, quotas);
    TRY(start_process(TRY(Home::program("spore")), arguments, directory, directory / kResolverLog,
                      std::chrono::steady_clock::now() + kResolverLimit, -1, &spot));
    return {};
}

}  // namespace

Result<UniqueFd> make_card_network(const std::filesystem::path& directory,
                                   const NetworkPolicy& policy) {
    if (may_make_networks())
        return make_network(directory, policy);
    TRY(check_user_network());
    auto arguments = TRY(pasta_arguments());
    // It refuses to start where SIGPIPE is ignored, as by us.
    arguments.insert(arguments.begin(), {kStarter, "--default-signal=PIPE"});
    for (const std::string& word :
         {std::string("--"), std::string(kStarter), TRY(Home::program("spore")).string(),
          std::string("network-keeper"), std::string("--ready-fd"), std::string("3")})
        arguments.push_back(word);
    TRY(prepare_user_network(directory, policy));
    // Whoever it is made for: that one's quotas come with the sandbox.
    auto spot = make_helper_spot(directory, Helper::passt, {});
    auto started = start_process(kStarter, arguments, directory, directory / kPasstLog,
                                 std::chrono::steady_clock::now() + kResolverLimit, -1, &spot);
    if (!started)
        return std::unexpected(with_log(started.error(), directory / kPasstLog));
    return take_user_tap(directory);
}

Result<std::string> follow_ahead(const std::filesystem::path& directory,
                                 const NetworkWords& words) {
    auto policy = TRY(parse_policy(words));
    if (policy.names_domains() || has_user_network(directory))
        return std::string();
    TRY(set_waiting_network(directory, policy.mode != NetworkMode::none));
    return words.line();
}

Status follow_policy(const std::filesystem::path& directory, const NetworkPolicy& policy,
                     const NetworkWords& words, const ProcessIdentity& vmm, const Quotas& quotas) {
    TRY(end_resolver(directory));
    TRY(apply_policy(directory, policy));
    if (!policy.names_domains())
        return {};
    auto started = start_resolver(directory, words, vmm, quotas);
    if (started)
        return {};
    TRY(apply_policy(directory, {}));
    return std::unexpected(std::move(started).error().within("resolver"));
}

std::vector<Helper> network_helpers(const std::filesystem::path& directory) {
    std::vector<Helper> running;
    if (has_user_network(directory))
        running.push_back(Helper::passt);
    if (is_alive(resolver_of(directory)))
        running.push_back(Helper::resolver);
    return running;
}

std::vector<Unenforced> network_lacks(const std::filesystem::path& directory) {
    std::vector<Unenforced> lacks;
    if (has_user_network(directory))
        lacks.push_back({kHostRules, std::string(kByPasst) + kHostRulesLack});
    for (Helper helper : network_helpers(directory)) {
        auto why = why_helper_is_free(directory, helper);
        if (why.empty())
            continue;
        lacks.push_back(
            {kNetworkCgroup, (helper == Helper::passt ? kPasstIsFree : kResolverIsFree) + why});
        break;  // what one lacks the other lacks, too
    }
    return lacks;
}

std::string user_networks_lack() {
    std::string why = why_helpers_will_be_free();
    return kHostRulesLack + (why.empty() ? "" : "; " + (kPasstIsFree + why));
}

Status remove_card_network(const std::filesystem::path& directory) {
    TRY(remove_network(directory));
    end_helpers(directory);
    return {};
}

Status serve_names(const std::filesystem::path& directory, const NetworkWords& words, int vmm_pid,
                   int ready) {
    std::optional<OwnUser> user;
    auto begin = [&]() -> Result<Resolver> {
        user = TRY(claim_user_if_root());
        auto policy = TRY(complete_policy(words));
        auto self = TRY(identify_process(::getpid()));
        TRY(replace_file(directory / kResolverFile,
                         std::to_string(self.pid) + " " + std::to_string(self.start_ticks) + "\n"));
        auto resolver = TRY(Resolver::begin(
            {directory, policy, vmm_pid, user ? user->id : kJailUser, leave_the_host}));
        TRY(restrict_thread(Role::resolver));
        return resolver;
    };
    auto resolver = begin();
    if (!tell_ready(UniqueFd(ready), resolver ? Status() : std::unexpected(resolver.error())))
        return fail_errno("telling that questions are answered");
    if (!resolver)
        return std::unexpected(std::move(resolver).error());
    return resolver->serve();
}

Status update_network(const Home& home, const std::string& id, const NetworkWords& words) {
    auto policy = TRY(complete_policy(words));
    auto [lock, info] = TRY(hold_sandbox(home, id));
    auto directory = run_directory(home, id);
    if (!has_network(directory))
        return fail(Code::invalid_argument,
                    "sandbox '" + id + "': its template '" + info.record.template_name +
                        "' was made without a network card (spore template create --network)");
    // First what is meant, then what holds: killed in between, the rules are the old ones, and
    // inspect_network() tells that they are not what the record says.
    info.record.network = words;
    TRY(save_record(directory, info.record));
    return follow_policy(directory, policy, words, info.record.process, info.record.quotas);
}

}  // namespace spore
