#pragma once

// A sandbox's network (layout.h): a namespace with the guest's tap and one end of a link, whose
// other end is on the host. It belongs to the directory of a clone, which holds a link to it from
// before it is made until after it is gone, so it is found whatever dies in between, and goes along
// when the directory is renamed:
//
//   DIRECTORY/network -> /run/spore-network/TOKEN/
//   TOKEN/net          the namespace, bound here
//   TOKEN/link         a link to nowhere that says "spore-N"
//   TOKEN/rules        what was loaded last
//
// The *gate* is the host's end: down, nothing passes, whatever the rules say. A network is made
// with its gate closed and its rules loaded; giving it to a sandbox that wants those rules is to
// open the gate, which a pool's keeper does ahead (set_waiting_network). When the namespace goes,
// which is when its pin and the VM are gone, all goes with it: tap, link, rules.

#include <filesystem>
#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/network/policy.h"
#include "hypervisor/network/rules.h"

namespace spore {

// Makes the network of the clone in `directory`: rules of `policy` loaded, gate closed. Returns the
// tap, to be handed to its VMM. Errors: permission_denied (not root), host_unsupported, saying what
// to do, the host's. After one, remove_network().
Result<UniqueFd> make_network(const std::filesystem::path& directory, const NetworkPolicy& policy,
                              const NetworkBounds& bounds = {});

// Whether this process may make namespaces, interfaces and rules on the host; else
// user_network.h is how a sandbox gets a network, and the functions below serve for that too.
bool may_make_networks();

bool has_network(const std::filesystem::path& directory);

// Has the network of `directory` follow `policy` from here on, connections that are open included.
// On an error the gate is closed: nothing passes. Errors: not_found (it has none), the host's.
Status apply_policy(const std::filesystem::path& directory, const NetworkPolicy& policy,
                    const NetworkBounds& bounds = {});

// For a clone whose VM waits for its go: `open` as make_network() loaded it, or nothing passes. One
// message. Not of a network by passt. Errors: not_found, the host's.
Status set_waiting_network(const std::filesystem::path& directory, bool open);

// The rules that `policy` gives on this host now: other ones after the host's addresses changed.
Result<std::string> rules_now(const NetworkPolicy& policy);

// Lets go of what make_network() made, or began to make; nothing to do is no error.
Status remove_network(const std::filesystem::path& directory);

struct NetworkReport {
    std::string by = "tap";    // or "passt" (user_network.h)
    std::string link;          // the host's interface
    std::string address;       // the sandbox's, on that link
    bool open = false;         // the gate
    bool intact = false;       // rules and interfaces are what was set up
    std::string what_changed;  // if not
};
// Compares what is there with what was set up. Errors: not_found.
Result<NetworkReport> inspect_network(const std::filesystem::path& directory);

// The host's own table, which all sandboxes share. Loads it if it is not there, or not as it
// should be; returns what of it was not, if it was there before. Errors: the host's.
Result<std::string> ensure_host_rules();
// Whether it is as it should be; nothing if no sandbox has had a network yet. Errors: unavailable,
// saying what is wrong.
Status check_host_rules();
// What this host lacks for networks, and the command that helps. Errors: host_unsupported,
// permission_denied.
Status check_host_network();

}  // namespace spore
