#pragma once

// Templates: a VM booted once, prepared, and snapshotted. Immutable once made.

#include <chrono>
#include <functional>
#include <optional>
#include <stop_token>

#include "hypervisor/network/policy.h"
#include "hypervisor/sandbox/agent_client.h"
#include "hypervisor/sandbox/image.h"

namespace spore {

struct TemplateSpec {
    std::string name;
    std::string image;
    std::string kernel = "stock";  // a kernel of the image's, or the path of an ELF or bzImage
    uint64_t memory_bytes = 256ull << 20;
    uint32_t cpus = 1;
    uint64_t disk_bytes = 1ull << 30;
    std::string cpu_template = "host";
    std::string owner;                 // whose it is; empty: nobody's, which is everybody's
    bool is_public = false;            // though it is somebody's, others may have clones of it
    std::vector<std::string> prepare;  // shell commands, run in the guest as root, in this order
    // Unless its mode is none, clones have a card, and the commands above this network.
    NetworkWords network;
    std::chrono::seconds boot_limit{180};
    std::chrono::seconds prepare_limit{600};  // for each command
    // For all that the guest does, and whoever makes it may stop it: unavailable, and nothing is
    // left of it.
    std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
    std::stop_token stop = {};
};

struct TemplateInfo {
    std::string name;
    std::string image;
    std::string kernel;
    std::string created;
    std::string cpu_template;
    std::string agent_version;
    uint64_t memory_bytes = 0;
    uint32_t cpus = 0;
    uint64_t disk_bytes = 0;
    std::vector<std::string> prepare;
    std::string owner;
    bool is_public = true;
    std::optional<NetworkWords> network;  // if its clones have a card: what it was made with
    uint64_t memory_image_bytes = 0;      // on disk, holes not counted
    uint64_t disk_layer_bytes = 0;
    std::filesystem::path directory;
    // The connection to the agent that its clones have; none in templates of Spore 0.1.
    std::optional<AgentCarried> agent;
    std::filesystem::path base;  // what the disk's layers begin with
    bool sealed = false;         // published: its files must be what its seal says
};

// Says what is going on, for people: "booting stock kernel", a line of a prepare command's output.
using Progress = std::function<void(const std::string&)>;

// Boots, prepares and snapshots; the template appears whole or not at all. Errors: already_exists,
// not_found (image, kernel), invalid_argument, timeout (naming the step), unavailable (a prepare
// command failed, with its exit status).
Result<TemplateInfo> create_template(const Home& home, const TemplateSpec& spec,
                                     const Progress& progress);
// Errors: not_found, corrupt, version_mismatch. What it reads is checked; see template_check.h.
Result<TemplateInfo> load_template(const Home& home, const std::string& name);
Result<std::vector<TemplateInfo>> list_templates(const Home& home);
// Refused (unavailable) while sandboxes made from it live or are being made. Errors: not_found.
Status remove_template(const Home& home, const std::string& name);

// The time now as RFC 3339, UTC, in seconds.
std::string timestamp_now();

}  // namespace spore
