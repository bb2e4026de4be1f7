#pragma once

// A guest's network card. A template is made with one or without: with one, the card is configured
// when the template boots, alike in all guests (hypervisor/network/layout.h), and every clone has
// it as the snapshot does, on a tap of its own.

#include "hypervisor/network/sandbox_network.h"
#include "hypervisor/sandbox/agent_client.h"
#include "hypervisor/sandbox/cgroup_quotas.h"
#include "hypervisor/sandbox/helper_cgroup.h"
#include "hypervisor/sandbox/home.h"
#include "hypervisor/sandbox/quotas.h"
#include "hypervisor/sandbox/vmm_process.h"

namespace spore {

// The policy of these words, asking this host's nameserver unless they name one. Errors:
// invalid_argument.
Result<NetworkPolicy> complete_policy(const NetworkWords& words);

// What the agent of a template with a card is told to configure.
AgentNetwork card_settings();

// Makes the network of the clone in `directory`, as make_network(): on the host if Spore may, else
// by passt in namespaces of the user's. Errors: those of make_network(), and pasta's last words.
Result<UniqueFd> make_card_network(const std::filesystem::path& directory,
                                   const NetworkPolicy& policy);

// Has the network of a clone that waits follow `words`, which it was made with, before anybody has
// asked for it; whoever then asks for just that has nothing to do. Returns what to write into the
// hand-over (Handover::network): nothing where that cannot be, as by passt or with a resolver,
// which has to know the VM. Errors: the host's.
Result<std::string> follow_ahead(const std::filesystem::path& directory, const NetworkWords& words);

// spore-vmm's options for a card on the tap that it gets as descriptor 4 (start_vmm's `extra`);
// without a MAC it has the snapshot's.
std::vector<std::string> card_arguments(bool with_mac);

// apply_policy() for the clone in `directory`, whose VM is `vmm`, and a resolver of its own if
// names are allowed; one that served an earlier policy ends. `policy` is complete_policy() of
// `words`, which the resolver is told. On an error nothing passes.
Status follow_policy(const std::filesystem::path& directory, const NetworkPolicy& policy,
                     const NetworkWords& words, const ProcessIdentity& vmm,
                     const Quotas& quotas = {});
// Ends what runs for it, and removes it.
Status remove_card_network(const std::filesystem::path& directory);

// What runs for the network in `directory` beside the VM.
std::vector<Helper> network_helpers(const std::filesystem::path& directory);
// What of the network in `directory` is not held, if it has one by passt: by which name, and why.
std::vector<Unenforced> network_lacks(const std::filesystem::path& directory);
// The same as one sentence's end, where networks are by passt.
std::string user_networks_lack();

// The resolver itself: `spore network-resolver`. Writes one line to `ready`, like spore-vmm, when
// it answers; until the VM ends.
Status serve_names(const std::filesystem::path& directory, const NetworkWords& words, int vmm_pid,
                   int ready);

// Has a running sandbox follow `words` from here on, and writes them down. On an error in the words
// all stays as it was; on any other nothing passes. Errors: not_found, invalid_argument (also of a
// sandbox without a card), unavailable (another changes it just now), the host's.
Status update_network(const Home& home, const std::string& id, const NetworkWords& words);

}  // namespace spore
