#pragma once

// Files in a guest, through its agent (schema/agent.fbs, Files). Paths are bytes, and start at "/".

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/sandbox/agent_client.h"

namespace spore {

class AgentConnection;
class AgentStream;

enum class FileKind : uint8_t {
    unknown,
    file,
    directory,
    symlink,
    fifo,
    socket,
    block_device,
    character_device,
};

// "file", "directory", … as --json prints it.
std::string_view file_kind_name(FileKind kind);

// What the guest says of a file: any bytes in `path` and `target`.
struct FileInfo {
    std::string path;  // as it was asked for; of a listing, from the listed directory
    FileKind kind = FileKind::unknown;
    uint64_t size = 0;
    uint32_t mode = 0;  // 07777
    uint32_t uid = 0;
    uint32_t gid = 0;
    int64_t mtime_ns = 0;  // since 1970
    std::string target;    // of a symbolic link, as it is written there
    uint64_t links = 0;
    uint64_t inode = 0;
    uint64_t device = 0;
};

struct FileReadSpec {
    std::string path;
    uint64_t offset = 0;
    uint64_t length = 0;  // 0: to the end
};

struct FileWriteSpec {
    enum class How : uint8_t {
        replace,   // a whole new file, there in one step after its last byte, or not at all
        create,    // the same; already_exists if something is there
        append,    // to what is there, made if need be, each piece at once
        in_place,  // into what is there from `offset` on, without cutting it
    };

    std::string path;
    How how = How::replace;
    uint32_t mode = 0;     // of a new file; 0: as it was, and 0644 if there was none
    bool parents = false;  // make missing directories on the way
    std::string user;      // owner of what is new: "name", "UID", "name:group"; empty: as it was
    uint64_t offset = 0;   // in_place
    int64_t mtime_ns = 0;  // 0: now
    bool sync = false;     // on the guest's disk before it is done
    // replace: a symbolic link that is there is replaced and not followed. (Not in one step by an
    // agent before protocol version 4.)
    bool replace_link = false;
};

struct FileListSpec {
    std::string path;
    bool recursive = false;
    bool hidden = true;        // names that begin with a dot, too
    uint64_t entries_max = 0;  // 0: all
};

struct FileAttributes {
    std::string path;
    bool link = false;  // a symbolic link itself
    std::optional<uint32_t> mode;
    std::string user;      // owner; empty: left
    int64_t mtime_ns = 0;  // 0: left
};

struct FileChange {
    // overflow: changes were lost here, look again. gone: the watched path itself was removed or
    // moved, and nothing more comes.
    enum class Kind : uint8_t { created, modified, attributes, removed, moved, overflow, gone };

    Kind kind = Kind::overflow;
    std::string path;  // from the watched directory; empty: the watched path itself
    std::string to;    // moved
    bool directory = false;
};

std::string_view file_change_name(FileChange::Kind kind);

// A watch that stands. One thread may wait while another cancels.
class AgentWatch {
  public:
    using Deadline = AgentClient::Deadline;

    explicit AgentWatch(AgentStream stream);
    ~AgentWatch();

    // Waits for the next changes; none at its end. Errors: timeout (it can be waited for again),
    // resource_exhausted (the guest's limit of watches), unavailable (cancelled).
    Result<std::vector<FileChange>> next(Deadline deadline);
    void cancel();

  private:
    std::unique_ptr<AgentStream> stream_;
};

// Thread-safe. Every call blocks until it is done or its deadline, which ends that request alone.
// Errors besides those named: not_found, permission_denied, invalid_argument (path: empty, a NUL,
// too long, of the wrong kind), timeout, unavailable.
class AgentFiles {
  public:
    using Deadline = AgentClient::Deadline;
    // In the calling thread; an error ends the request, and is what it returns.
    using Sink = std::function<Status(std::span<const std::byte>)>;
    // Fills the front of a buffer: how many bytes, 0 at the end.
    using Source = std::function<Result<size_t>(std::span<std::byte>)>;
    using Visit = std::function<Status(FileInfo&&)>;

    explicit AgentFiles(std::shared_ptr<AgentConnection> connection);

    // What FileWriteSpec.replace_link is to an agent that does not know it: removes a symbolic link
    // that is there. Others are asked nothing.
    Status make_way(const FileWriteSpec& spec, Deadline deadline) const;
    // `follow`: a symbolic link's target instead of itself.
    Result<FileInfo> stat(const std::string& path, bool follow, Deadline deadline) const;
    // A symbolic link is something, wherever it leads.
    Result<bool> exists(const std::string& path, Deadline deadline) const;
    // Follows symbolic links. What the file was when it was opened.
    Result<FileInfo> read(const FileReadSpec& spec, const Sink& sink, Deadline deadline) const;
    // Follows symbolic links, which stay. The file's size then. Errors: resource_exhausted (the
    // disk is full: the file is as it was, but for what was appended or written in place).
    Result<uint64_t> write(const FileWriteSpec& spec, const Source& source,
                           Deadline deadline) const;
    // From a descriptor, read to its end; notices also while that has nothing that it failed.
    Result<uint64_t> write(const FileWriteSpec& spec, int fd, Deadline deadline) const;
    // Whether there was more than `entries_max`, or names that are too long to be told. Symbolic
    // links are followed in `path` alone. A directory comes before what is in it.
    Result<bool> list(const FileListSpec& spec, const Visit& visit, Deadline deadline) const;
    // A symbolic link itself. `recursive`: a directory with all that is in it.
    Status remove(const std::string& path, bool recursive, Deadline deadline) const;
    // In one step. Errors: already_exists without `replace`, host_unsupported between file systems.
    Status move(const std::string& from, const std::string& to, bool replace,
                Deadline deadline) const;
    // `parents`: with those on the way, and one that is there is none. Mode 0: 0755.
    Status make_directory(const std::string& path, uint32_t mode, bool parents,
                          const std::string& user, Deadline deadline) const;
    // `replace`: another symbolic link, in one step.
    Status make_symlink(const std::string& path, const std::string& target, bool replace,
                        Deadline deadline) const;
    // `path` becomes another name of the plain file `target`. `replace`: a file or symbolic link
    // that is there, in one step. Errors also: host_unsupported between file systems and by an
    // agent before protocol version 4.
    Status make_hard_link(const std::string& path, const std::string& target, bool replace,
                          Deadline deadline) const;
    Status set_attributes(const FileAttributes& attributes, Deadline deadline) const;
    // Returns as soon as no change can be missed. A recursive one covers directories made later;
    // what is in those already may be told twice.
    Result<std::unique_ptr<AgentWatch>> watch(const std::string& path, bool recursive,
                                              Deadline deadline) const;

  private:
    std::shared_ptr<AgentConnection> connection_;
};

}  // namespace spore
