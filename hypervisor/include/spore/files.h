#pragma once

/// @file
/// Files in a sandbox.

#include <spore/call.h>
#include <spore/error.h>
#include <spore/watch.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace spore {
inline namespace v1 {

/// How a file is written.
struct WriteOptions {
    /// What becomes of what is there.
    enum class How {
        replace,   ///< A whole new file, there in one step after its last byte, or not at all.
        create,    ///< The same; already_exists if something is there.
        append,    ///< To what is there, made if need be.
        in_place,  ///< Into what is there from `offset` on, without cutting it.
    };
    How how = How::replace;  ///< What becomes of what is there.
    uint32_t mode = 0;       ///< Of a new file; 0: as it was, and 0644 if there was none.
    bool parents = false;    ///< Make missing directories on the way.
    std::string user = {};   ///< Owner of what is new, as Command::user; empty: as it was.
    uint64_t offset = 0;     ///< in_place.
    bool sync = false;       ///< On the guest's disk before it is done.
};

/// What a copy has done so far.
struct TreeCounts {
    uint64_t bytes = 0;        ///< Of files' content.
    uint64_t files = 0;        ///< Whole ones.
    uint64_t directories = 0;  ///< Made or found.
    uint64_t links = 0;        ///< Symbolic links, and further names of one file.
    uint64_t skipped = 0;      ///< Left out: FIFOs, sockets, devices, what went meanwhile.
    /// Of `files`: further names of one that became files of their own, since the file system there
    /// has no such thing, or an agent is too old.
    uint64_t separate = 0;
};

/// How a tree is copied. The functions are called in the thread that called.
struct TreeOptions {
    std::function<void(const TreeCounts&)> progress = {};  ///< After each piece.
    /// What was left out, and why.
    std::function<void(const std::string& path, const std::string& why)> skipped = {};
    std::string user = {};   ///< copy_in: owner of what is new, as Command::user.
    uint64_t bytes_max = 0;  ///< copy_out: resource_exhausted above it; 0: no limit.
};

/// A sandbox's files; see Sandbox::files. Paths are any bytes that Linux allows but NUL, and begin
/// at "/"; none ever meets a shell. Cheap to copy; thread-safe as Sandbox. Errors of every call
/// beside its own: not_found, permission_denied, invalid_argument (a path that is empty, too long,
/// or of the wrong kind), timeout, unavailable, host_unsupported (an agent that is too old).
class Files {
  public:
    /// What a file is.
    enum class Kind {
        unknown,           ///< None of these.
        file,              ///< A plain one.
        directory,         ///< A directory.
        symlink,           ///< A symbolic link.
        fifo,              ///< A named pipe.
        socket,            ///< A UNIX socket.
        block_device,      ///< A block device.
        character_device,  ///< A character device.
    };

    /// What is known of a file. UNTRUSTED: it is the guest that says so.
    struct Entry {
        std::string path;  ///< As it was asked for; of a listing, from the listed directory.
        Kind kind = Kind::unknown;                       ///< What it is.
        uint64_t size = 0;                               ///< In bytes.
        uint32_t mode = 0;                               ///< 07777.
        uint32_t uid = 0;                                ///< Its owner.
        uint32_t gid = 0;                                ///< Its group.
        std::chrono::system_clock::time_point modified;  ///< Of its content.
        std::string target;   ///< Of a symbolic link, as it is written there.
        uint64_t links = 0;   ///< Hard links.
        uint64_t inode = 0;   ///< With `device`: which file it is.
        uint64_t device = 0;  ///< See `inode`.
    };

    /// Takes bytes of a file, in the thread that called; an error ends the call and is what it
    /// returns.
    using Sink = std::function<Status(std::span<const std::byte>)>;
    /// Fills the front of a buffer with what comes next: how many bytes, 0 at the end.
    using Source = std::function<Result<size_t>(std::span<std::byte>)>;

    /// Of a symbolic link itself, or with `follow` of what it leads to.
    Result<Entry> stat(const std::string& path, bool follow = false, const Call& call = {}) const;
    /// A symbolic link is something, wherever it leads.
    Result<bool> exists(const std::string& path, const Call& call = {}) const;

    /// A whole file, through symbolic links. Errors also: resource_exhausted above `bytes_max`.
    Result<std::string> read(const std::string& path, const Call& call = {},
                             size_t bytes_max = 64 << 20) const;
    /// Any file of any size, from `offset` on; `length` 0: to its end. Returns what it was.
    Result<Entry> read(const std::string& path, const Sink& sink, uint64_t offset = 0,
                       uint64_t length = 0, const Call& call = {}) const;
    /// Writes what is in memory, through symbolic links, which stay; the file's size then. Errors
    /// also: resource_exhausted (the guest's disk is full).
    Result<uint64_t> write(const std::string& path, std::string_view bytes,
                           const WriteOptions& options = {}, const Call& call = {}) const;
    /// The same with what a function gives, of any size. An error of it leaves the file as it was.
    Result<uint64_t> write(const std::string& path, const Source& source,
                           const WriteOptions& options = {}, const Call& call = {}) const;

    /// What is in a directory, hidden names too; with `recursive` all below it, a directory before
    /// what is in it. Errors also: resource_exhausted above `entries_max`.
    Result<std::vector<Entry>> list(const std::string& path, bool recursive = false,
                                    const Call& call = {}, size_t entries_max = 1 << 20) const;
    /// A symbolic link itself; with `recursive` a directory with all that is in it.
    Status remove(const std::string& path, bool recursive = false, const Call& call = {}) const;
    /// In one step. Errors also: already_exists without `replace`; host_unsupported between two of
    /// the guest's file systems.
    Status move(const std::string& from, const std::string& to, bool replace = false,
                const Call& call = {}) const;
    /// With `parents` those on the way too, and one that is there is no error. Mode 0: 0755.
    Status make_directory(const std::string& path, bool parents = false, uint32_t mode = 0,
                          const Call& call = {}) const;
    /// With `replace` over another symbolic link, in one step.
    Status make_symlink(const std::string& path, const std::string& target, bool replace = false,
                        const Call& call = {}) const;
    /// Another name of the plain file `target`, which no symbolic link is; with `replace` over a
    /// file or a symbolic link, in one step. Errors also: host_unsupported between two of the
    /// guest's file systems.
    Status make_hard_link(const std::string& path, const std::string& target, bool replace = false,
                          const Call& call = {}) const;
    /// Changes the mode, and with a `user` the owner, through symbolic links.
    Status set_mode(const std::string& path, uint32_t mode, const std::string& user = {},
                    const Call& call = {}) const;
    /// Copies a file or a directory with all that is in it from this host into the sandbox, with
    /// modes and times, links of both kinds as such. A target that is a directory or ends in "/"
    /// gets the source under its own name in it, and the contents of a source that ends in "/.";
    /// directories are merged with what is there, files replaced, each in one step. On an error
    /// what was copied stays.
    Result<TreeCounts> copy_in(const std::string& from_host, const std::string& to,
                               const TreeOptions& options = {}, const Call& call = {}) const;
    /// The same out of the sandbox. Whatever names and links the guest gives, nothing outside of
    /// `to_host` is written and no symbolic link is followed but on the way to it; nothing that
    /// arrives has the set-user-ID, set-group-ID or sticky bit.
    Result<TreeCounts> copy_out(const std::string& from, const std::string& to_host,
                                const TreeOptions& options = {}, const Call& call = {}) const;
    /// The same into another sandbox, or to another place in this one, streamed through this host
    /// and never a file of it. What is said of copy_out's links and bits holds here too.
    Result<TreeCounts> copy_across(const std::string& from, const Files& target,
                                   const std::string& to, const TreeOptions& options = {},
                                   const Call& call = {}) const;
    /// Returns as soon as no change can be missed. A `recursive` one covers directories made later;
    /// what is in those already may be told twice.
    Result<Watch> watch(const std::string& path, bool recursive = false,
                        const Call& call = {}) const;

    /// Of the library's own; see Sandbox::files.
    struct Impl;
    /// Of the library's own; see Sandbox::files.
    explicit Files(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

  private:
    std::shared_ptr<const Impl> impl_;
};

}  // namespace v1
}  // namespace spore
