#pragma once

// A host of its own for these tests, with a world around it, and guests that are a kernel's network
// stack behind a tap:
//
//   guest's namespace        sandbox's              host's (this process)          world's
//   eth0 198.18.0.2 ═ pump ═ tap0 ... up0 ──────── spore-N ... out 192.0.2.1 ──── in 192.0.2.2
//                                                                     203.0.113.10, 203.0.113.53,
//                                                                     10.7.0.1, 169.254.169.254
//
// A socket stays in the namespace where it was made, so all of them are used from one thread.

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"
#include "hypervisor/network/sandbox_network.h"

namespace spore {

inline constexpr const char* kPublic = "203.0.113.10";
inline constexpr const char* kNameserver = "203.0.113.53";
inline constexpr const char* kPrivate = "10.7.0.1";
inline constexpr const char* kMetadata = "169.254.169.254";
inline constexpr const char* kHostOutside = "192.0.2.1";
inline constexpr uint16_t kPort = 8080;

// This process leaves the host: network and mounts of its own, /run empty. Why it cannot, or "".
std::string enter_own_host();

// The namespace that is the world; made once.
int world();

// With `--passt=SPORE`: guests' networks are made as for a user who may make none on the host
// (user_network.h), by that program. Why that cannot be, or "".
std::string use_passt(const std::string& spore);
bool by_passt();
// The user's; the tap of the network that is then in `directory`.
Result<UniqueFd> make_passt_network(const std::filesystem::path& directory,
                                    const NetworkPolicy& policy, const NetworkBounds& bounds);
// Of a directory: the process that keeps its network.
pid_t keeper_of(const std::filesystem::path& directory);

// In the namespace `ns` (-1: the host's).
UniqueFd make_socket(int ns, int type);
UniqueFd listen_in(int ns, uint16_t port = kPort);
UniqueFd receive_in(int ns, uint16_t port = kPort,
                    const std::string& address = "0.0.0.0");  // UDP

// What ought to come is waited for as long as this; what ought not, for a moment.
inline constexpr int kPatienceMs = 20'000;
inline constexpr int kMomentMs = 500;

// 0, or the errno with which it failed; ETIMEDOUT after `ms`.
int connect_to(int socket, const std::string& address, uint16_t port = kPort, int ms = kPatienceMs);
// Whether a connection waits there, within `ms`.
UniqueFd accept_from(int listener, int ms = kPatienceMs);
// What comes within `ms`; "" if nothing does.
std::string read_from(int socket, int ms = kPatienceMs);
void send_to(int socket, const std::string& text, const std::string& address,
             uint16_t port = kPort);

// A network as a sandbox has it, and the guest behind it.
class Guest {
  public:
    explicit Guest(const NetworkPolicy& policy, const NetworkBounds& bounds = {});
    ~Guest();

    const std::filesystem::path& directory() const { return directory_; }
    int ns() const { return ns_.get(); }
    // The sandbox's namespace, where its rules are.
    UniqueFd sandbox_namespace() const;
    NetworkReport report() const;
    Status apply(const NetworkPolicy& policy) { return apply_policy(directory_, policy, bounds_); }

    // What a program in the guest gets: 0 or an errno.
    int connect(const std::string& address, uint16_t port = kPort, int ms = kPatienceMs) const;
    // The host lets go of the guest's card, as when its VM ends.
    void drop_tap();
    // A frame as the guest's kernel would never send it.
    void send_frame(std::span<const uint8_t> frame) const;
    // Frames that came to the guest since the last call, without its kernel's answer.
    std::vector<std::string> frames();

  private:
    void pump();
    void end_pump();

    std::filesystem::path directory_;
    NetworkBounds bounds_;
    UniqueFd tap_;
    UniqueFd ns_;
    UniqueFd inner_;  // the guest's own tap, its eth0
    UniqueFd stop_;
    std::mutex mutex_;
    std::vector<std::string> seen_;
    std::thread pump_;
};

// Policies by their words; a mistake ends the test.
NetworkPolicy policy(const std::string& mode, std::vector<std::string> allow = {},
                     std::vector<std::string> deny = {}, const std::string& dns = kNameserver);

// Waits until `done()`, up to a minute.
template <typename Done>
bool eventually(Done done) {
    for (int tries = 0; tries < 6000; tries++) {
        if (done())
            return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

}  // namespace spore
