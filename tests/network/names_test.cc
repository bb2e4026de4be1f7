// Names: a resolver at work, asked by a guest; the nameserver behind it is this test.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/jail/empty_root.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/network/dns_message.h"
#include "hypervisor/network/resolver.h"
#include "tests/network/world.h"

namespace spore {
namespace {

Status leave_the_host() {
    if (::unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
        return fail_errno("unshare");
    return enter_empty_root();
}

// A resolver as `spore` starts it, jailed, for a guest, and a process that stands for its VM.
class Names {
  public:
    explicit Names(const NetworkPolicy& policy)
        : guest(policy),
          nameserver(receive_in(world(), 53, kNameserver)),
          asking(make_socket(guest.ns(), SOCK_DGRAM)) {
        vmm = ::fork();
        if (vmm == 0) {
            ::pause();
            ::_exit(0);
        }
        int ends[2];
        EXPECT_EQ(::pipe(ends), 0);
        process = ::fork();
        if (process == 0) {
            auto resolver =
                Resolver::begin({guest.directory(), policy, vmm, 900'000, leave_the_host});
            if (resolver && !restrict_thread(Role::resolver))
                ::_exit(1);
            std::string said = resolver ? "ready" : resolver.error().message;
            (void)!::write(ends[1], said.data(), said.size());
            ::_exit(resolver && resolver->serve() ? 0 : 1);
        }
        ::close(ends[1]);
        EXPECT_EQ(read_from(ends[0], 10'000), "ready");
        ::close(ends[0]);
        EXPECT_EQ(connect_to(asking.get(), "198.18.0.1", 53), 0);
    }
    ~Names() {
        ::kill(vmm, SIGKILL);
        ::waitpid(vmm, nullptr, 0);
        int status = -1;
        EXPECT_EQ(::waitpid(process, &status, 0), process);
        EXPECT_EQ(status, 0) << "it ends with its VM";
    }

    void ask(const std::string& name) {
        auto query = make_query({0, true, name, kDnsTypeA}, 77);
        ASSERT_EQ(::send(asking.get(), query.data(), query.size(), 0),
                  static_cast<ssize_t>(query.size()));
    }
    // What the nameserver is asked; "" if nothing.
    std::string asked(int ms = kPatienceMs) {
        std::string text = receive(nameserver.get(), ms);
        auto question = parse_question(std::as_bytes(std::span(text)));
        if (!question)
            return "";
        last = *question;
        return last.name;
    }
    void answer(const std::vector<std::string>& addresses, uint32_t ttl) {
        DnsAnswer answer{DnsStatus::ok, {}};
        for (const std::string& address : addresses)
            answer.addresses.push_back({*parse_ipv4("address", address), ttl});
        auto message = make_answer(last, answer);
        ::sendto(nameserver.get(), message.data(), message.size(), 0,
                 reinterpret_cast<sockaddr*>(&from), sizeof(from));
    }
    std::optional<DnsAnswer> answered(const std::string& name, int ms = kPatienceMs) {
        std::string text = receive(asking.get(), ms);
        return parse_answer(std::as_bytes(std::span(text)), {0, true, name, kDnsTypeA}, 77);
    }
    // All of it: what the guest is told.
    std::optional<DnsAnswer> resolve(const std::string& name,
                                     const std::vector<std::string>& addresses, uint32_t ttl) {
        ask(name);
        EXPECT_EQ(asked(), name);
        answer(addresses, ttl);
        return answered(name);
    }

    Guest guest;
    UniqueFd nameserver, asking;
    pid_t vmm = -1, process = -1;
    DnsQuestion last;
    sockaddr_in from = {};

  private:
    std::string receive(int socket, int ms) {
        char buffer[1024];
        socklen_t size = sizeof(from);
        timeval limit = {ms / 1000, ms % 1000 * 1000 + 1};
        ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        sockaddr_in sender = {};
        ssize_t got = ::recvfrom(socket, buffer, sizeof(buffer), 0,
                                 reinterpret_cast<sockaddr*>(&sender), &size);
        if (socket == nameserver.get() && got > 0)
            from = sender;
        return got <= 0 ? "" : std::string(buffer, static_cast<size_t>(got));
    }
};

TEST(Names, OpenWhatWasGivenOutForItsTtl) {
    UniqueFd server = listen_in(world());
    Names names(policy("egress", {"a.example"}));
    EXPECT_NE(names.guest.connect(kPublic), 0) << "nobody has asked yet";
    auto told = names.resolve("a.example", {kPublic}, 1);
    ASSERT_TRUE(told);
    ASSERT_EQ(told->addresses.size(), 1u);
    EXPECT_EQ(told->addresses[0].ttl_seconds, 1u);
    EXPECT_EQ(names.guest.connect(kPublic), 0);
    EXPECT_NE(names.guest.connect("203.0.113.11"), 0) << "that was not it";
    EXPECT_TRUE(names.guest.report().intact) << names.guest.report().what_changed;
    auto closed = [&] {
        (void)accept_from(server.get(), 0);  // or its queue would be full at some time
        return names.guest.connect(kPublic) == EHOSTUNREACH;
    };
    EXPECT_TRUE(eventually(closed)) << "its time is up";
    // And again, twice: the second answer is the longer one's, and holds.
    ASSERT_TRUE(names.resolve("a.example", {kPublic}, 1));
    ASSERT_TRUE(names.resolve("a.example", {kPublic}, 60));
    EXPECT_EQ(names.guest.connect(kPublic), 0);
}

TEST(Names, OnlyThoseAllowed) {
    Names names(policy("egress", {"a.example", "*.b.example"}, {"no.b.example"}));
    for (const char* name : {"b.example", "aa.example", "x.a.example", "no.b.example", "example",
                             "b.example.evil", "xb.example"}) {
        names.ask(name);
        auto told = names.answered(name);
        ASSERT_TRUE(told) << name;
        EXPECT_EQ(told->status, DnsStatus::refused) << name;
    }
    EXPECT_EQ(names.asked(0), "") << "the nameserver hears of none of them";
    EXPECT_TRUE(names.resolve("x.y.b.example", {kPublic}, 60));
}

TEST(Names, OpenTheirPortAlone) {
    UniqueFd server = listen_in(world());
    UniqueFd other = listen_in(world(), 8081);
    Names names(policy("egress", {"a.example:8080"}));
    ASSERT_TRUE(names.resolve("a.example", {kPublic}, 60));
    EXPECT_EQ(names.guest.connect(kPublic), 0);
    EXPECT_NE(names.guest.connect(kPublic, 8081), 0);
}

// A name's owner may let it lead anywhere.
TEST(Names, OpenNoPrivateAddress) {
    UniqueFd server = listen_in(world());
    Names names(policy("egress", {"a.example"}));
    ASSERT_TRUE(names.resolve("a.example", {kPrivate, kMetadata, kHostOutside, kPublic}, 60));
    EXPECT_NE(names.guest.connect(kPrivate), 0);
    EXPECT_NE(names.guest.connect(kMetadata), 0);
    EXPECT_NE(names.guest.connect(kHostOutside), 0);
    EXPECT_EQ(names.guest.connect(kPublic), 0);
}

TEST(Names, TheNameserverIsNotToBeHadOtherwise) {
    Names names(policy("egress", {"a.example"}));
    UniqueFd direct = make_socket(names.guest.ns(), SOCK_DGRAM);
    send_to(direct.get(), "past the resolver", kNameserver, 53);
    EXPECT_EQ(read_from(names.nameserver.get(), 100), "");
}

TEST(Names, AnAnswerToAnotherQuestionOpensNothing) {
    UniqueFd server = listen_in(world());
    Names names(policy("egress", {"a.example"}));
    names.ask("a.example");
    ASSERT_EQ(names.asked(), "a.example");
    DnsQuestion right = names.last;
    names.last.id = static_cast<uint16_t>(names.last.id + 1);
    names.answer({kPublic}, 60);
    names.last = right;
    names.last.name = "b.example";
    names.answer({kPublic}, 60);
    EXPECT_FALSE(names.answered("a.example", 200));
    EXPECT_NE(names.guest.connect(kPublic), 0);
    names.last = right;
    names.answer({kPublic}, 60);
    EXPECT_TRUE(names.answered("a.example"));
    EXPECT_EQ(names.guest.connect(kPublic), 0);
}

}  // namespace
}  // namespace spore
