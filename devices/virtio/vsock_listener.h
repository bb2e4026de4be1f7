#pragma once

// The host's side of the vsock device's paths: the socket that host programs connect to, and the
// sockets of host programs that guests connect to.

#include <sys/types.h>

#include <string>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/io/event_loop.h"

namespace spore {

// A listening Unix socket; its file is removed with it, if it is still the one that it made.
// A Unix stream socket bound to `path`, of mode 0600, for adopt() to listen on later. Errors:
// invalid_argument (path empty or longer than 107 bytes), already_exists.
Result<UniqueFd> bind_vsock_socket(const std::string& path);

class VsockListener {
  public:
    // Errors: invalid_argument (path empty or longer than 107 bytes), already_exists.
    static Result<VsockListener> create(const std::string& path, EventLoop& loop);
    // Listens on a bound Unix stream socket of somebody else's making. Its file stays, and there is
    // nobody for guests to connect to. Errors: invalid_argument (another kind of descriptor).
    static Result<VsockListener> adopt(UniqueFd socket, EventLoop& loop);
    VsockListener(VsockListener&& other) noexcept;
    VsockListener& operator=(VsockListener&&) = delete;
    ~VsockListener();

    const RingFile& file() const { return file_; }
    // The next client's socket, non-blocking; an empty one if there is none just now.
    Result<UniqueFd> accept() const;
    // A non-blocking connection to the host program that listens at "<path>_<port>". Errors:
    // unavailable or not_found if there is none, invalid_argument if the path gets too long.
    Result<UniqueFd> connect_to(uint32_t port) const;

  private:
    VsockListener(std::string path, RingFile file, dev_t device, ino_t inode)
        : path_(std::move(path)), file_(std::move(file)), device_(device), inode_(inode) {}

    std::string path_;  // empty: adopted, or moved from
    RingFile file_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

}  // namespace spore
