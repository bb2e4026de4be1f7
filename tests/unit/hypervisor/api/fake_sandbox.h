#pragma once

// A sandbox whose VM is a process that sleeps and whose guest is an agent on this machine: what the
// library sees of it (its record, its process, its vsock socket) is real.

#include <spore/host.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <fstream>
#include <list>
#include <mutex>
#include <thread>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/record.h"
#include "tests/unit/agent/running_agent.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {

class FakeSandbox {
  public:
    // Makes the stream that a connection to a port of the guest is; -1: nobody listens.
    using Connect = std::function<UniqueFd(uint32_t port)>;

    explicit FakeSandbox(std::string id) : id_(std::move(id)) {
        // On disk, or the home would have a directory in memory that this is not to clear.
        for (const char* each : {"sandboxes", "pools"})
            std::filesystem::create_directory(home_ / each);
        directory_ = home_ / "sandboxes" / id_;
        std::filesystem::create_directory(directory_);
        vmm_ = ::fork();
        if (vmm_ == 0) {
            ::pause();
            ::_exit(0);
        }
        SandboxRecord record;
        record.id = id_;
        record.template_name = "fake";
        record.created_unix_ms = 1'795'700'000'000;
        record.process = *identify_process(vmm_);
        record.labels = {{"kind", "test"}};
        record.owner = "nobody";
        EXPECT_TRUE(save_record(directory_, record));
        listen();
        serving_ = std::jthread([this] { serve(); });
    }
    ~FakeSandbox() {
        ::shutdown(listener_.get(), SHUT_RDWR);
        serving_.join();
        cut();
        relays_.clear();
        ::kill(vmm_, SIGKILL);
        ::waitpid(vmm_, nullptr, 0);
    }

    const std::filesystem::path& home() const { return home_; }
    // As if the VM had ended: its process, and every connection.
    void kill_vmm() {
        ::kill(vmm_, SIGKILL);
        ::waitpid(vmm_, nullptr, 0);
        cut();
    }
    // Ends the connections that there are.
    void cut() {
        std::unique_lock lock(mutex_);
        for (const UniqueFd& end : ends_)
            ::shutdown(end.get(), SHUT_RDWR);
    }
    int connections() const { return connections_; }
    void connect_by(Connect connect) { connect_ = std::move(connect); }

  private:
    static UniqueFd connect_unix_path(const std::string& path) {
        UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof(address.sun_path) - 1);
        if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
            return UniqueFd();
        return socket;
    }
    void listen() {
        listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        (directory_ / "v").string().copy(address.sun_path, sizeof(address.sun_path) - 1);
        ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
                  0);
        ASSERT_EQ(::listen(listener_.get(), 64), 0);
    }
    // spore-vmm's end of vsock.
    void serve() {
        while (true) {
            UniqueFd host(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!host)
                return;
            std::string line;
            for (char next = 0; !line.ends_with('\n') && ::recv(host.get(), &next, 1, 0) == 1;)
                line += next;
            if (!line.starts_with("CONNECT "))
                continue;
            const auto port = static_cast<uint32_t>(std::strtoul(line.c_str() + 8, nullptr, 10));
            UniqueFd guest =
                connect_ ? connect_(port)
                         : connect_unix_path(agent_.path() +
                                             (port == limits::kAgentForwardPort ? ".forward" : ""));
            if (!guest)
                continue;
            ++connections_;
            (void)!::send(host.get(), "OK 7\n", 5, MSG_NOSIGNAL);
            relays_.emplace_back(pump, ::dup(host.get()), ::dup(guest.get()));
            relays_.emplace_back(pump, ::dup(guest.get()), ::dup(host.get()));
            std::unique_lock lock(mutex_);
            ends_.push_back(std::move(host));
            ends_.push_back(std::move(guest));
        }
    }
    static void pump(int from, int to) {
        const UniqueFd own_from(from), own_to(to);
        char chunk[65536];
        for (ssize_t count = 0; (count = ::recv(from, chunk, sizeof(chunk), 0)) > 0;) {
            for (ssize_t sent = 0; sent < count;) {
                const ssize_t more =
                    ::send(to, chunk + sent, static_cast<size_t>(count - sent), MSG_NOSIGNAL);
                if (more <= 0)
                    return;
                sent += more;
            }
        }
        ::shutdown(to, SHUT_WR);
    }

    RunningAgent agent_;
    // It listens by the time that somebody is greeted here.
    AgentClient greeted_ = agent_.client();
    std::string id_;
    const ScratchDirectory scratch_{"api-test"};
    const std::filesystem::path& home_ = scratch_.path();
    std::filesystem::path directory_;
    pid_t vmm_ = -1;
    Connect connect_;
    UniqueFd listener_;
    std::mutex mutex_;
    std::vector<UniqueFd> ends_;
    std::list<std::jthread> relays_;
    std::atomic<int> connections_ = 0;
    std::jthread serving_;
};

// The sandbox "one" as the library has it.
class SandboxFixture : public testing::Test {
  protected:
    void SetUp() override {
        const auto host = Host::open(fake.home());
        ASSERT_TRUE(host) << host.error().message;
        auto found = host->find_sandbox("one");
        ASSERT_TRUE(found) << found.error().message;
        sandbox.emplace(*found);
    }
    static Call soon() { return Call::within(std::chrono::seconds(60)); }

    FakeSandbox fake{"one"};
    std::optional<Sandbox> sandbox;
};

}  // namespace spore
