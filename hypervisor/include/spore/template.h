#pragma once

/// @file
/// Templates: VMs booted once, prepared, and snapshotted, which sandboxes are clones of.

#include <spore/error.h>
#include <spore/limits.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// Told what is going on, for people: "booting stock kernel". Called in the thread that called.
using OnProgress = std::function<void(const std::string&)>;

/// A template that there was when this was made. Cheap to copy; thread-safe.
class Template {
  public:
    /// What to make.
    struct Spec {
        std::string name;              ///< 1 to 63 of a-z, 0-9 and '-', no '-' at either end.
        std::string image;             ///< Of this host's (`spore image list`).
        std::string kernel = "stock";  ///< One of the image's, or the path of an ELF or bzImage.
        uint64_t memory_bytes = 256ull << 20;  ///< 32 MiB or more.
        uint32_t cpus = 1;                     ///< 1 to 16.
        uint64_t disk_bytes = 1ull << 30;      ///< Of the root file system.
        std::string cpu_template = "host";     ///< "host" or "baseline".
        /// Shell commands, run in the guest as root, in this order, before the snapshot.
        std::vector<std::string> prepare = {};
        /// Unless its mode is none its sandboxes have a network card, and `prepare` this access.
        NetworkAccess network = {};
        std::string owner = {};                ///< Whose it is; empty: everybody's.
        bool is_public = false;                ///< Others than its owner may have sandboxes of it.
        std::chrono::seconds boot_limit{180};  ///< Until the guest's agent answers.
        std::chrono::seconds prepare_limit{600};  ///< For each command of `prepare`.
    };

    /// What is known of it.
    struct Info {
        std::string name;                  ///< Its name.
        std::string image;                 ///< What it was made of.
        std::string kernel;                ///< As in Spec.
        std::string created;               ///< RFC 3339, UTC.
        std::string cpu_template;          ///< As in Spec.
        std::string agent_version;         ///< Of the agent in it.
        uint64_t memory_bytes = 0;         ///< As in Spec.
        uint32_t cpus = 0;                 ///< As in Spec.
        uint64_t disk_bytes = 0;           ///< As in Spec.
        std::vector<std::string> prepare;  ///< As in Spec.
        std::string owner;                 ///< As in Spec.
        bool is_public = true;             ///< As in Spec.
        bool has_network = false;          ///< Its sandboxes have a network card.
        uint64_t memory_image_bytes = 0;   ///< Of its memory on this host's disk.
        uint64_t disk_layer_bytes = 0;     ///< Of its disk beside the image's.
    };

    /// What `verify` has found.
    struct Check {
        bool sealed_anew = false;  ///< Its files were moved or touched; their content is right.
        bool verity = false;       ///< The kernel checks each page when it is read (fs-verity).
    };

    /// What is known of it.
    const Info& info() const;

    /// Reads all of its files and checks every checksum. Errors: corrupt, naming file and place;
    /// not_found.
    Result<Check> verify(const OnProgress& progress = {}) const;
    /// Removes it from this host. Errors: unavailable while sandboxes of it live or are being made;
    /// not_found.
    Status remove() const;

    /// Of the library's own; see Host.
    struct Impl;
    /// Of the library's own; see Host.
    explicit Template(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<const Impl> impl_;
};

}  // namespace v1
}  // namespace spore
