#pragma once

// The real agent, serving on a UNIX socket, and both ways to talk to it.

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "hypervisor/sandbox/agent_client.h"
#include "schema/frame.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {

// Long enough for a loaded machine; nothing waits for it to pass.
inline AgentClient::Deadline soon() {
    return std::chrono::steady_clock::now() + std::chrono::seconds(60);
}

inline Status collect(std::string& into, std::span<const std::byte> bytes) {
    into.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
}

// Bytes of every value in an order that a shifted or lost piece would break.
inline std::string pattern(size_t size, uint32_t seed) {
    std::string bytes(size, '\0');
    uint32_t state = seed;
    for (char& byte : bytes) {
        state = state * 1664525 + 1013904223;
        byte = static_cast<char>(state >> 24);
    }
    return bytes;
}

struct Outcome {
    ExecResult result;
    std::string out, err;
};

// An agent in a process of its own: the program, or `serve` in a fork of the test.
class RunningAgent {
  public:
    RunningAgent() {
        start([this] {
            ::execl(SPORE_AGENT_PATH, "spore-agent", "--listen-unix", path().c_str(), nullptr);
            ::_exit(99);
        });
    }
    explicit RunningAgent(const std::function<void(const std::string& path)>& serve) {
        start([&] {
            serve(path());
            ::_exit(98);
        });
    }
    ~RunningAgent() {
        ::kill(pid_, SIGTERM);
        ::waitpid(pid_, nullptr, 0);
    }

    std::string path() const { return directory_ + "/agent"; }
    const std::string& directory() const { return directory_; }
    pid_t pid() const { return pid_; }
    // Its VmRSS (proc(5)).
    size_t resident_kib() const {
        std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
        std::string word;
        size_t kib = 0;
        while (status >> word) {
            if (word == "VmRSS:")
                status >> kib;
        }
        return kib;
    }
    bool alive() const { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }

    UniqueFd connect_socket() const {
        UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        path().copy(address.sun_path, sizeof(address.sun_path) - 1);
        const auto deadline = soon();
        while (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) !=
               0) {
            if (std::chrono::steady_clock::now() > deadline || !alive()) {
                ADD_FAILURE() << "agent does not listen";
                break;
            }
            ::usleep(1000);
        }
        return socket;
    }

    AgentClient client() const {
        auto client = AgentClient::over(connect_socket(), soon());
        EXPECT_TRUE(client) << client.error().message;
        return std::move(*client);
    }

  private:
    void start(const std::function<void()>& run) {
        pid_ = ::fork();
        if (pid_ == 0)
            run();
    }

    const ScratchDirectory scratch_{"agent-test"};
    const std::string directory_ = scratch_.path();
    pid_t pid_ = -1;
};

inline Result<Outcome> run(AgentClient& client, const ExecRequest& request,
                           ExecStreams streams = {}) {
    Outcome outcome;
    if (!streams.on_stdout)
        streams.on_stdout = [&](auto bytes) { return collect(outcome.out, bytes); };
    if (!streams.on_stderr)
        streams.on_stderr = [&](auto bytes) { return collect(outcome.err, bytes); };
    outcome.result = TRY(client.exec(request, streams, soon()));
    return outcome;
}

inline ExecRequest shell(const std::string& script) {
    return {.argv = {"sh", "-c", script}};
}

// A client that sends and receives single frames, for what AgentClient never does.
class RawClient {
  public:
    explicit RawClient(UniqueFd socket) : socket_(std::move(socket)) {}

    flatbuffers::FlatBufferBuilder& buffer() { return builder_.buffer(); }
    template <typename Body>
    void send(uint32_t stream, flatbuffers::Offset<Body> body) {
        send_bytes(builder_.finish(stream, body));
        builder_.reset();
    }
    // False if the agent has closed the connection.
    bool send_bytes(std::span<const std::byte> bytes) {
        while (!bytes.empty()) {
            const ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (count < 0)
                return false;
            bytes = bytes.subspan(static_cast<size_t>(count));
        }
        return true;
    }
    void greet() {
        send(1, wire::CreateHello(buffer(), kAgentProtocolMin, kAgentProtocolMax));
        const auto* reply = next();
        ASSERT_NE(reply, nullptr);
        ASSERT_NE(reply->body_as_HelloReply(), nullptr);
    }
    void exec(uint32_t stream, const std::vector<std::string>& argv, uint32_t out_credit,
              bool with_stdin = false, uint32_t err_credit = 1 << 16) {
        const auto strings = buffer().CreateVectorOfStrings(argv);
        send(stream, wire::CreateExec(buffer(), strings, 0, 0, false, 0, 0, with_stdin, 0,
                                      out_credit, err_credit));
    }
    // The next frame; nullptr at the end of the connection.
    const wire::Frame* next() {
        while (true) {
            const auto frame = reader_.next();
            if (!frame) {
                ADD_FAILURE() << frame.error().message;
                return nullptr;
            }
            if (*frame != nullptr)
                return *frame;
            pollfd waiting = {socket_.get(), POLLIN, 0};
            if (::poll(&waiting, 1, 60'000) != 1) {
                ADD_FAILURE() << "no frame within a minute";
                return nullptr;
            }
            const auto room = reader_.room();
            const ssize_t count = ::recv(socket_.get(), room.data(), room.size(), 0);
            if (count <= 0)
                return nullptr;
            reader_.received(static_cast<size_t>(count));
        }
    }
    int fd() const { return socket_.get(); }

  private:
    UniqueFd socket_;
    FrameReader reader_;
    FrameBuilder builder_;
};

}  // namespace spore
