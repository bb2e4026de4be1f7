#pragma once

// Copying files, directories and symbolic links, with their modes and times, between this host and
// a guest. Owners are not copied, FIFOs, sockets and devices left out; names of one file are
// that again, or, where the guest's agent or file system has no such thing, files of their own.

#include "hypervisor/sandbox/agent_files.h"

namespace spore {

struct CopyCounts {
    uint64_t bytes = 0;
    uint64_t files = 0;
    uint64_t directories = 0;
    uint64_t links = 0;  // symbolic ones, and further names of a file
    uint64_t skipped = 0;
    uint64_t separate = 0;  // of `files`: further names of a file that became files of their own
};

struct CopyOptions {
    // In the calling thread, after each piece.
    std::function<void(const CopyCounts&)> on_progress;
    // What was left out, and why.
    std::function<void(const std::string& path, const std::string& why)> on_skipped;
    // What is no further name of a file as it was, but one of its own, and why.
    std::function<void(const std::string& path, const std::string& why)> on_separate;
    std::string user;        // copy_in: owner of what is new, as FileWriteSpec.user
    uint64_t bytes_max = 0;  // copy_out: resource_exhausted above it; 0: none
    AgentClient::Deadline deadline = AgentClient::Deadline::max();
};

// Both: a target that is a directory, or ends in "/", gets the source under its own name in it, and
// the contents of a source that ends in "/."; other directories are merged with what is there,
// files and links replace files and links there, each in one step. No symbolic link is followed but
// on the way to the target and, into a guest, the target itself. On an error what was copied
// stays.

// From `from` on this host (a symbolic link is followed there, and none below it) into the guest;
// missing directories on the way to `to` are made.
Result<CopyCounts> copy_in(const std::shared_ptr<AgentConnection>& connection,
                           const std::string& from, const std::string& to,
                           const CopyOptions& options);

// From the guest to `to` on this host. Whatever names and links the guest gives, nothing outside of
// `to` is written, and no symbolic link followed but on the way to it. Nothing that arrives has the
// set-user-ID, set-group-ID or sticky bit.
Result<CopyCounts> copy_out(const std::shared_ptr<AgentConnection>& connection,
                            const std::string& from, const std::string& to,
                            const CopyOptions& options);

// From one guest to another, streamed through this host and never a file of it. Whatever names and
// links the first one gives, nothing outside of `to` is written in the second; set-user-ID,
// set-group-ID and sticky bits stay behind.
Result<CopyCounts> copy_across(const std::shared_ptr<AgentConnection>& source,
                               const std::string& from,
                               const std::shared_ptr<AgentConnection>& target,
                               const std::string& to, const CopyOptions& options);

}  // namespace spore
