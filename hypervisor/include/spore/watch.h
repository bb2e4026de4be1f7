#pragma once

/// @file
/// Changes of files in a sandbox, as they happen.

#include <spore/call.h>
#include <spore/error.h>

#include <memory>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// A watch that stands, made by Files::watch: no change after that is missed, or an overflow says
/// so. Ends with its last copy. One thread may wait while another cancels.
class Watch {
  public:
    /// Something that has happened.
    struct Change {
        /// What has.
        enum class Kind {
            created,     ///< It is there now.
            modified,    ///< Its content.
            attributes,  ///< Its mode, owner or times.
            removed,     ///< It is gone.
            moved,       ///< From `path` to `to`, both of them watched.
            overflow,    ///< Changes were lost here: look again.
            gone,        ///< The watched path itself was removed or moved; nothing more comes.
        };
        Kind kind = Kind::overflow;  ///< What has happened.
        std::string
            path;        ///< From the watched directory, any bytes; empty: the watched path itself.
        std::string to;  ///< moved: where it is now.
        bool directory = false;  ///< It is of a directory.
    };

    /// Waits for the next changes; none at the end of the watch. A deadline ends this call alone,
    /// and no change is lost; a stop ends the watch. Errors: timeout, unavailable (cancelled, or
    /// the sandbox has ended), resource_exhausted (the guest has no room for more watches).
    Result<std::vector<Change>> next(const Call& call = {}) const;
    /// Ends it, also under a thread that waits.
    void cancel() const;

    /// Of the library's own; see Files::watch.
    struct Impl;
    /// Of the library's own; see Files::watch.
    explicit Watch(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<Impl> impl_;
};

}  // namespace v1
}  // namespace spore
