// Connections to ports through the real agent: its forward listener, and who listens.

#include <gmock/gmock.h>
#include <netinet/in.h>

#include <numeric>
#include <thread>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_ports.h"
#include "tests/unit/agent/running_agent.h"

namespace spore {
namespace {

using testing::HasSubstr;

// A TCP listener on this machine's loopback, in the test.
class Listener {
  public:
    explicit Listener(int family = AF_INET)
        : socket_(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_storage address = {};
        address.ss_family = static_cast<sa_family_t>(family);
        socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
        if (family == AF_INET)
            reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        else
            reinterpret_cast<sockaddr_in6&>(address).sin6_addr = IN6ADDR_LOOPBACK_INIT;
        auto* raw = reinterpret_cast<sockaddr*>(&address);
        usable_ = ::bind(socket_.get(), raw, size) == 0 && ::listen(socket_.get(), 64) == 0 &&
                  ::getsockname(socket_.get(), raw, &size) == 0;
        // The port is at the same place in both.
        port_ = ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
    }
    bool usable() const { return usable_; }
    uint16_t port() const { return port_; }
    UniqueFd accept() const {
        pollfd waiting = {socket_.get(), POLLIN, 0};
        EXPECT_EQ(::poll(&waiting, 1, 60'000), 1) << "nobody connects";
        return UniqueFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    void close() { socket_.reset(); }

  private:
    UniqueFd socket_;
    bool usable_ = false;
    uint16_t port_ = 0;
};

class ForwardTest : public testing::Test {
  protected:
    UniqueFd open() const {
        UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        (agent.path() + ".forward").copy(address.sun_path, sizeof(address.sun_path) - 1);
        EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
                  0);
        const timeval limit = {60, 0};
        ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        return socket;
    }
    Result<UniqueFd> connect(const std::string& line) const {
        UniqueFd socket = open();
        TRY(request_forward(socket.get(), line, soon()));
        return socket;
    }
    Result<UniqueFd> connect(uint16_t port) const {
        return connect("PORT " + std::to_string(port));
    }

    RunningAgent agent;
    // It listens for forwards by the time it answers here.
    AgentClient client = agent.client();
};

void send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t count = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        ASSERT_GT(count, 0) << std::strerror(errno);
        bytes.remove_prefix(static_cast<size_t>(count));
    }
}

// To the end, or `size` bytes.
std::string receive(int fd, size_t size = SIZE_MAX) {
    std::string all;
    char chunk[65536];
    while (all.size() < size) {
        const ssize_t count = ::recv(fd, chunk, std::min(sizeof(chunk), size - all.size()), 0);
        EXPECT_GE(count, 0) << std::strerror(errno);
        if (count <= 0)
            break;
        all.append(chunk, static_cast<size_t>(count));
    }
    return all;
}

std::string pattern(size_t size, unsigned seed) {
    std::string bytes(size, '\0');
    for (char& byte : bytes)
        byte = static_cast<char>((seed = seed * 1103515245 + 12345) >> 16);
    return bytes;
}

TEST_F(ForwardTest, PassesBytesBothWaysAndEachEndForItself) {
    const Listener listener;
    const auto client_end = connect(listener.port());
    ASSERT_TRUE(client_end) << client_end.error().message;
    const UniqueFd server = listener.accept();
    send_all(client_end->get(), "question");
    ::shutdown(client_end->get(), SHUT_WR);
    EXPECT_EQ(receive(server.get()), "question") << "to its end";
    // The other way is as open as before.
    send_all(server.get(), "answer");
    EXPECT_EQ(receive(client_end->get(), 6), "answer");
    send_all(server.get(), " and more");
    ::shutdown(server.get(), SHUT_WR);
    EXPECT_EQ(receive(client_end->get()), " and more");
}

TEST_F(ForwardTest, TheServersEndLeavesTheClientsWayOpen) {
    const Listener listener;
    const auto client_end = connect(listener.port());
    ASSERT_TRUE(client_end) << client_end.error().message;
    const UniqueFd server = listener.accept();
    ::shutdown(server.get(), SHUT_WR);
    EXPECT_EQ(receive(client_end->get()), "");
    send_all(client_end->get(), "still");
    EXPECT_EQ(receive(server.get(), 5), "still");
}

TEST_F(ForwardTest, WhatFollowsTheLineIsTheServers) {
    const Listener listener;
    const UniqueFd socket = open();
    send_all(socket.get(), "PORT " + std::to_string(listener.port()) + "\nearly");
    const UniqueFd server = listener.accept();
    EXPECT_EQ(receive(server.get(), 5), "early");
    EXPECT_EQ(receive(socket.get(), 3), "OK\n");
}

TEST_F(ForwardTest, LargeTransfersBothWaysAtOnceAreWhole) {
    const Listener listener;
    const auto client_end = connect(listener.port());
    ASSERT_TRUE(client_end) << client_end.error().message;
    const UniqueFd server = listener.accept();
    const std::string up = pattern(24 << 20, 1), down = pattern(24 << 20, 2);
    std::string got_up, got_down;
    {
        const auto sends = [](int fd, const std::string& bytes) {
            send_all(fd, bytes);
            ::shutdown(fd, SHUT_WR);
        };
        std::jthread a(sends, client_end->get(), std::cref(up));
        std::jthread b(sends, server.get(), std::cref(down));
        std::jthread c([&] { got_up = receive(server.get()); });
        got_down = receive(client_end->get());
    }
    EXPECT_TRUE(got_up == up) << got_up.size();
    EXPECT_TRUE(got_down == down) << got_down.size();
}

TEST_F(ForwardTest, AReaderThatDoesNotReadHoldsUpNoOther) {
    const Listener listener;
    const auto stuck = connect(listener.port());
    ASSERT_TRUE(stuck) << stuck.error().message;
    const UniqueFd stuck_server = listener.accept();
    const std::string much = pattern(32 << 20, 3);
    std::jthread feeder([&] { send_all(stuck->get(), much); });
    for (int round = 0; round < 20; ++round) {
        const auto other = connect(listener.port());
        ASSERT_TRUE(other) << other.error().message;
        const UniqueFd server = listener.accept();
        send_all(other->get(), "ping");
        EXPECT_EQ(receive(server.get(), 4), "ping");
    }
    EXPECT_TRUE(receive(stuck_server.get(), much.size()) == much);
}

TEST_F(ForwardTest, ManyAtOnceAndAsManyAgain) {
    const Listener listener;
    for (int round = 0; round < 2; ++round) {
        std::vector<UniqueFd> clients, servers;
        for (int i = 0; i < 200; ++i) {
            auto client_end = connect(listener.port());
            ASSERT_TRUE(client_end) << client_end.error().message;
            clients.push_back(std::move(*client_end));
            servers.push_back(listener.accept());
        }
        for (size_t i = 0; i < clients.size(); ++i)
            send_all(clients[i].get(), std::to_string(i));
        for (size_t i = 0; i < servers.size(); ++i)
            EXPECT_EQ(receive(servers[i].get(), std::to_string(i).size()), std::to_string(i));
    }
}

TEST_F(ForwardTest, MoreThanTheLimitWaitUntilOneEnds) {
    const Listener listener;
    std::vector<UniqueFd> held;
    for (uint32_t i = 0; i < limits::kAgentForwardsMax; ++i)
        held.push_back(open());
    const UniqueFd waits = open();
    send_all(waits.get(), "PORT " + std::to_string(listener.port()) + "\n");
    ASSERT_TRUE(client.ping(soon())) << "all else is served";
    pollfd answer = {waits.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&answer, 1, 0), 0) << "it was served above the limit";
    held.pop_back();
    EXPECT_EQ(receive(waits.get(), 3), "OK\n");
}

TEST_F(ForwardTest, ReachesAListenerOfIpv6Alone) {
    const Listener listener(AF_INET6);
    if (!listener.usable())
        GTEST_SKIP() << "no IPv6 on this machine";
    const auto client_end = connect(listener.port());
    ASSERT_TRUE(client_end) << client_end.error().message;
    send_all(client_end->get(), "six");
    EXPECT_EQ(receive(listener.accept().get(), 3), "six");
}

TEST_F(ForwardTest, ReachesUnixSockets) {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string path = agent.directory() + "/app";
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const auto early = connect("UNIX " + path);
    ASSERT_FALSE(early);
    EXPECT_EQ(early.error().code, Code::unavailable) << early.error().message;
    ASSERT_EQ(::listen(socket.get(), 1), 0);
    const auto client_end = connect("UNIX " + path);
    ASSERT_TRUE(client_end) << client_end.error().message;
    const UniqueFd server(::accept(socket.get(), nullptr, nullptr));
    send_all(server.get(), "hello");
    EXPECT_EQ(receive(client_end->get(), 5), "hello");
    const auto absent = connect("UNIX /no/such/socket");
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().code, Code::not_found);
    EXPECT_THAT(absent.error().message, HasSubstr("/no/such/socket"));
}

TEST_F(ForwardTest, SaysThatNobodyListens) {
    Listener listener;
    listener.close();
    const auto refused = connect(listener.port());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unavailable);
    EXPECT_EQ(refused.error().message,
              "port " + std::to_string(listener.port()) + ": nobody listens there in the guest");
}

TEST_F(ForwardTest, RefusesLinesThatAreNone) {
    for (const std::string& line :
         {std::string("PORT"), std::string("PORT 0"), std::string("PORT 65536"),
          std::string("PORT -1"), std::string("PORT 80 "), std::string("PORT 0x50"),
          std::string("port 80"), std::string("UNIX "), std::string("UNIX relative"),
          std::string("UNIX /a\0b", 9), std::string("UNIX /") + std::string(110, 'a'),
          std::string(), std::string("GET / HTTP/1.1")}) {
        const UniqueFd socket = open();
        send_all(socket.get(), line + "\n");
        const std::string answer = receive(socket.get());
        EXPECT_TRUE(answer.starts_with("ERROR invalid_argument ") && answer.ends_with("\n"))
            << line << ": " << answer;
    }
    const UniqueFd endless = open();
    send_all(endless.get(), std::string(limits::kForwardLineBytesMax, 'x'));
    EXPECT_THAT(receive(endless.get()), HasSubstr("must be below 128 bytes"));
}

TEST_F(ForwardTest, WhoGoesInTheMiddleLeavesNothing) {
    const Listener listener;
    const std::string port = std::to_string(listener.port());
    for (const std::string& sent : {std::string(), std::string("PO"), "PORT " + port + "\n"}) {
        const UniqueFd socket = open();
        send_all(socket.get(), sent);
    }
    // The last one may have been connected: its server sees an end, not silence.
    EXPECT_EQ(receive(listener.accept().get()), "");
    // A reset of the server's, with bytes that it never read.
    const auto client_end = connect(listener.port());
    ASSERT_TRUE(client_end) << client_end.error().message;
    {
        const UniqueFd server = listener.accept();
        const linger reset = {1, 0};
        ::setsockopt(server.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    }
    EXPECT_EQ(receive(client_end->get()), "");
    // A client that goes while the server still talks.
    auto gone = connect(listener.port());
    ASSERT_TRUE(gone) << gone.error().message;
    const UniqueFd server = listener.accept();
    gone->reset();
    EXPECT_EQ(receive(server.get()), "");
    // No descriptor is left of any of them.
    EXPECT_TRUE(client.ping(soon()));
}

TEST_F(ForwardTest, ListsWhoListens) {
    const Listener four, six(AF_INET6);
    auto connection = AgentConnection::over(std::move(client));
    ASSERT_TRUE(connection);
    const auto ports = list_ports(**connection, soon());
    ASSERT_TRUE(ports) << ports.error().message;
    const auto find = [&](uint16_t port) {
        return std::ranges::find(*ports, port, &ListeningPort::port);
    };
    ASSERT_NE(find(four.port()), ports->end());
    EXPECT_EQ(find(four.port())->address, "127.0.0.1");
    EXPECT_EQ(find(four.port())->uid, ::getuid());
    EXPECT_EQ(find(four.port())->pid, ::getpid()) << "the first that has it is the test itself";
    EXPECT_EQ(find(four.port())->process, ::program_invocation_short_name);
    if (six.usable()) {
        ASSERT_NE(find(six.port()), ports->end());
        EXPECT_EQ(find(six.port())->address, "::1");
    }
    EXPECT_TRUE(std::ranges::is_sorted(*ports, {}, &ListeningPort::port));
}

TEST(Ports, SaysThatTheGuestHasGone) {
    const auto refused = connect_port("/tmp", 80, soon());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unavailable) << refused.error().message;
    EXPECT_EQ(connect_port("/tmp", 0, soon()).error().code, Code::invalid_argument);
    EXPECT_EQ(connect_guest_socket("/tmp", "/a\nPORT 1", soon()).error().code,
              Code::invalid_argument);
}

}  // namespace
}  // namespace spore
