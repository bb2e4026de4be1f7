#pragma once

/// @file
/// A connection to a port of a sandbox.

#include <unistd.h>

#include <utility>

namespace spore {
inline namespace v1 {

/// Owns the descriptor of a connected stream socket: bytes pass both ways, and shutdown(2) ends one
/// way alone. Not thread-safe; move-only.
class Socket {
  public:
    /// None.
    Socket() = default;
    /// Takes a descriptor.
    explicit Socket(int fd) : fd_(fd) {}
    /// Leaves none in `other`.
    Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    /// Closes its own, and leaves none in `other`.
    Socket& operator=(Socket&& other) noexcept {
        std::swap(fd_, other.fd_);
        other.close();
        return *this;
    }
    ~Socket() { close(); }

    /// The descriptor, still its own; -1: none.
    int fd() const { return fd_; }
    /// Gives the descriptor away.
    int release() { return std::exchange(fd_, -1); }
    /// Closes it, if there is one.
    void close() {
        if (fd_ >= 0)
            ::close(std::exchange(fd_, -1));
    }

  private:
    int fd_ = -1;
};

}  // namespace v1
}  // namespace spore
