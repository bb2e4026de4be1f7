#pragma once

// Interfaces, addresses and routes by rtnetlink(7), in the network namespace of the thread that
// opened the socket. Each call is one message and its acknowledgement.

#include <cstdint>
#include <string>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

struct nlmsghdr;

namespace spore {

class RouteSocket {
  public:
    static Result<RouteSocket> open();

    // A pair of interfaces, `name` here and `peer` in the namespace `peer_namespace`. Errors:
    // already_exists (either name).
    Status make_pair(const std::string& name, const std::string& peer, int peer_namespace);
    Status set_up(const std::string& name, bool up);
    Status set_mac(const std::string& name, const std::string& mac);
    Status add_address(const std::string& name, uint32_t address, uint8_t prefix_bits);
    // Who has that address on that interface, for good: nobody is asked.
    Status add_neighbour(const std::string& name, uint32_t address, const std::string& mac);
    Status add_default_route(uint32_t gateway);
    // Errors: not_found.
    Status remove(const std::string& name);
    // Every IPv4 address of the namespace's interfaces. getifaddrs(3) would have all that there is
    // to say of each interface written first, and there are two for each sandbox.
    Result<std::vector<uint32_t>> addresses();

  private:
    explicit RouteSocket(UniqueFd socket) : socket_(std::move(socket)) {}
    Status exchange(nlmsghdr* message, const std::string& what);

    UniqueFd socket_;
    uint32_t sequence_ = 0;
};

// Which generation of rules the calling thread's network namespace has: another whenever anybody
// has changed one of its tables. 20 µs, where listing a table takes a millisecond.
Result<uint32_t> ruleset_generation();

// Forgets every connection of the calling thread's network namespace (ctnetlink).
Status flush_connections();

}  // namespace spore
