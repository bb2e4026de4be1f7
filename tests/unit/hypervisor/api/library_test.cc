// The public API (hypervisor/include/spore), over a real agent.

#include <gmock/gmock.h>
#include <netinet/in.h>

#include <cmath>
#include <csignal>
#include <stdexcept>

#include "hypervisor/base/agent_limits.h"
#include "tests/unit/hypervisor/api/fake_sandbox.h"

namespace spore {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

class Library : public SandboxFixture {};

TEST_F(Library, KnowsWhatThereIs) {
    EXPECT_EQ(library_version(), SPORE_VERSION);
    EXPECT_EQ(kVersion, SPORE_VERSION) << "hypervisor/include/spore/version.h";
    EXPECT_EQ(sandbox->id(), "one");
    EXPECT_EQ(sandbox->template_name(), "fake");
    EXPECT_EQ(sandbox->owner(), "nobody");
    EXPECT_EQ(sandbox->labels().at("kind"), "test");
    EXPECT_EQ(sandbox->created().time_since_epoch() / 1ms, 1'795'700'000'000);
    EXPECT_TRUE(sandbox->alive().value());
    const auto host = Host::open(fake.home());
    ASSERT_TRUE(host);
    EXPECT_EQ(host->home(), fake.home());
    const auto all = host->list_sandboxes();
    ASSERT_TRUE(all);
    ASSERT_EQ(all->size(), 1u);
    EXPECT_EQ((*all)[0].id(), "one");
    EXPECT_EQ(host->list_templates()->size(), 0u);
}

TEST_F(Library, SaysWhatThereIsNot) {
    EXPECT_EQ(Host::open("relative/path").error().code, Code::invalid_argument);
    const auto host = Host::open(fake.home());
    ASSERT_TRUE(host);
    EXPECT_EQ(host->find_sandbox("two").error().code, Code::not_found);
    EXPECT_EQ(host->find_sandbox("../one").error().code, Code::invalid_argument);
    EXPECT_EQ(host->find_template("none").error().code, Code::not_found);
    EXPECT_EQ(host->create_sandbox({.template_name = "none"}).error().code, Code::not_found);
    const auto made = host->create_template({.name = "t", .image = "none"});
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, Code::not_found);
    EXPECT_THAT(made.error().message, HasSubstr("none"));
}

TEST_F(Library, TellsWhatASandboxUses) {
    const auto usage = sandbox->usage(soon());
    ASSERT_TRUE(usage) << usage.error().message;
    EXPECT_GT(usage->memory_bytes, 0u) << "of the process";
    EXPECT_GT(usage->vmm.open_files.value_or(0), 0u) << "likewise";
    EXPECT_FALSE(usage->network);
    EXPECT_FALSE(usage->connections || usage->console);
    // This one's VM does not answer: what only it knows is not known, and that is told.
    EXPECT_FALSE(usage->disk);
    EXPECT_THAT(usage->not_known,
                testing::Contains(testing::Field(&Usage::Missing::name, HasSubstr("disk"))));
    EXPECT_EQ(sandbox->usage(Call::within(0ms)).error().code, Code::timeout);
    std::stop_source stop;
    stop.request_stop();
    EXPECT_EQ(sandbox->usage({.stop = stop.get_token()}).error().code, Code::unavailable);
    fake.kill_vmm();
    EXPECT_EQ(sandbox->usage(soon()).error().code, Code::unavailable);
    EXPECT_EQ(sandbox->update(Limits{.cpus = 1}, soon()).error().code, Code::unavailable);
}

TEST_F(Library, RefusesLimitsAndNetworksThatCannotBe) {
    const auto refused = [&](const Limits& limits, const char* why) {
        const auto updated = sandbox->update(limits, soon());
        ASSERT_FALSE(updated) << why;
        EXPECT_EQ(updated.error().code, Code::invalid_argument) << updated.error().message;
        EXPECT_THAT(updated.error().message, HasSubstr(why));
    };
    refused({.cpus = 0.01}, "cpu-max '0.010'");
    refused({.cpus = -1}, "cpu-max");
    refused({.cpus = std::nan("")}, "cpu-max");
    refused({.cpus = 1e300}, "cpu-max");
    refused({.cpu_weight = 10'001}, "cpu-weight '10001'");
    refused({.memory_bytes = 1}, "memory-max '1'");
    refused({.processes = 1}, "pids-max '1'");
    refused({.disk = Throughput{.bytes_burst = 1 << 20}}, "io-max");
    refused({.network = Throughput{.operations = 1, .bytes_burst = 1}}, "net-max");
    const auto network = sandbox->update(
        NetworkAccess{.mode = NetworkAccess::Mode::egress, .allow = {"10.0.0.0/33"}}, soon());
    ASSERT_FALSE(network);
    EXPECT_EQ(network.error().code, Code::invalid_argument) << network.error().message;
    const auto host = Host::open(fake.home());
    const auto made = host->create_sandbox({.template_name = "none", .limits = {.processes = 1}});
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, Code::invalid_argument) << made.error().message;
}

TEST_F(Library, CapturesACommand) {
    Command command = Command::shell("cat; echo $A-$PWD >&2; exit 3");
    command.environment = {{"A", "b c"}};
    command.cwd = "/usr";
    command.input = std::string("in\0put", 6);
    const auto done = sandbox->capture(command, soon());
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(done->out, std::string("in\0put", 6));
    EXPECT_EQ(done->err, "b c-/usr\n");
    EXPECT_EQ(done->exit.kind, Exit::Kind::exited);
    EXPECT_EQ(done->exit.status, 3);
    EXPECT_FALSE(done->exit.success());
    EXPECT_GT(done->exit.peak_memory_bytes, 0u);
    EXPECT_FALSE(done->truncated());
    const auto cut = sandbox->capture(Command::shell("echo 123456789"), soon(), 4);
    ASSERT_TRUE(cut);
    EXPECT_EQ(cut->out, "1234");
    EXPECT_EQ(cut->out_bytes, 10u);
    EXPECT_TRUE(cut->truncated());
    EXPECT_TRUE(cut->exit.success());
    EXPECT_EQ(fake.connections(), 1) << "one for all calls";
}

TEST_F(Library, TellsHowACommandEnded) {
    const auto absent = sandbox->run({.argv = {"no-such-program"}}, {}, soon());
    ASSERT_TRUE(absent);
    EXPECT_EQ(absent->kind, Exit::Kind::not_started);
    EXPECT_EQ(absent->status, 127);
    EXPECT_THAT(absent->message, HasSubstr("no-such-program"));
    const auto killed = sandbox->run(Command::shell("kill -9 $$"), {}, soon());
    ASSERT_TRUE(killed);
    EXPECT_EQ(killed->kind, Exit::Kind::signaled);
    EXPECT_EQ(killed->signal, SIGKILL);
    EXPECT_EQ(killed->status, 128 + SIGKILL);
    Command slow = {.argv = {"sleep", "1000"}};
    slow.timeout = 20ms;
    const auto late = sandbox->run(slow, {}, soon());
    ASSERT_TRUE(late);
    EXPECT_EQ(late->kind, Exit::Kind::timed_out);
    EXPECT_EQ(late->status, 124);
    const auto nowhere = sandbox->run({.argv = {"true"}, .cwd = "/no/such"}, {}, soon());
    ASSERT_FALSE(nowhere);
    EXPECT_EQ(nowhere.error().code, Code::not_found);
    EXPECT_EQ(sandbox->run({.argv = {}}, {}, soon()).error().code, Code::invalid_argument);
}

TEST_F(Library, StreamsAndCancelsFromAnotherThread) {
    std::stop_source stop;
    std::jthread canceller;
    std::string out;
    int pid = 0;
    Streams streams;
    streams.started = [&](int its) { pid = its; };
    streams.out = [&](std::span<const std::byte> bytes) {
        out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        if (!canceller.joinable())
            canceller = std::jthread([&] { stop.request_stop(); });
        return Status{};
    };
    const auto ended = sandbox->run(Command::shell("echo ready; exec sleep 1000"), streams,
                                    {.stop = stop.get_token()});
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, Code::unavailable);
    EXPECT_EQ(out, "ready\n");
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (::kill(pid, 0) == 0 && std::chrono::steady_clock::now() < deadline)
        std::this_thread::sleep_for(1ms);
    EXPECT_NE(::kill(pid, 0), 0) << "it runs on in the guest";
    // One that is cancelled already does nothing at all.
    EXPECT_EQ(sandbox->ping({.stop = stop.get_token()}).error().code, Code::unavailable);
    EXPECT_TRUE(sandbox->ping(soon()));
    EXPECT_EQ(fake.connections(), 1);
}

TEST_F(Library, GivesACommandATerminalAndOrders) {
    const auto control = CommandControl::create();
    ASSERT_TRUE(control) << control.error().message;
    std::string out;
    Streams streams;
    // Each step comes when what the one before it has caused is seen.
    streams.out = [&](std::span<const std::byte> bytes) -> Status {
        (void)collect(out, bytes);
        if (out.ends_with("ready\r\n"))
            control->resize({.rows = 50, .columns = 132});
        if (out.ends_with("50 132\r\n"))
            control->signal(SIGUSR1);
        return {};
    };
    streams.control = *control;
    Command command = Command::shell(
        "trap 'stty size' WINCH; trap 'echo ended; exit 4' USR1; tty -s && stty size; "
        "echo ready; while :; do sleep 0.05; done");
    command.terminal = {.rows = 33, .columns = 101};
    const auto exit = sandbox->run(command, streams, soon());
    ASSERT_TRUE(exit) << exit.error().message;
    EXPECT_EQ(exit->status, 4);
    EXPECT_THAT(out, testing::StartsWith("33 101\r\nready\r\n"));
    EXPECT_THAT(out, HasSubstr("50 132\r\n"));
    EXPECT_THAT(out, testing::EndsWith("ended\r\n"));
    // Of one without a terminal there is no size, and that hurts nobody.
    streams.out = [&](auto) -> Status {
        control->resize({.rows = 1, .columns = 1});
        control->signal(SIGTERM);
        return {};
    };
    const auto plain = sandbox->run(Command::shell("echo up; exec sleep 1000"), streams, soon());
    ASSERT_TRUE(plain) << plain.error().message;
    EXPECT_EQ(plain->signal, SIGTERM);
    EXPECT_TRUE(sandbox->ping(soon()));
    EXPECT_EQ(fake.connections(), 1);
}

TEST_F(Library, DeadlineEndsOneCallAlone) {
    ASSERT_TRUE(sandbox->ping(soon()));  // connecting is not what is to end
    std::jthread other([&] {
        const auto done = sandbox->capture(Command::shell("sleep 0.3; echo through"), soon());
        ASSERT_TRUE(done) << done.error().message;
        EXPECT_EQ(done->out, "through\n");
    });
    const auto late = sandbox->run({.argv = {"sleep", "1000"}}, {}, Call::within(30ms));
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, Code::timeout);
    other.join();
    EXPECT_EQ(fake.connections(), 1);
}

TEST_F(Library, ErrorsAndExceptionsOfASinkAreReturned) {
    Streams streams;
    streams.out = [](auto) -> Status { return std::unexpected(Error{Code::corrupt, "no more"}); };
    const auto refused = sandbox->run(Command::shell("echo x; sleep 1000"), streams, soon());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::corrupt);
    EXPECT_EQ(refused.error().message, "no more");
    streams.out = [](auto) -> Status { throw std::runtime_error("thrown by a sink"); };
    const auto thrown = sandbox->run(Command::shell("echo x; sleep 1000"), streams, soon());
    ASSERT_FALSE(thrown);
    EXPECT_EQ(thrown.error().code, Code::internal);
    EXPECT_THAT(thrown.error().message, HasSubstr("thrown by a sink"));
    EXPECT_TRUE(sandbox->ping(soon()));
}

TEST_F(Library, IsUsedByManyThreadsAtOnce) {
    std::vector<std::jthread> threads;
    std::atomic<int> good = 0;
    for (int thread = 0; thread < 16; ++thread) {
        threads.emplace_back([&, thread, own = *sandbox] {
            const Sandbox& used = thread % 2 == 0 ? own : *sandbox;  // copies, and one object
            for (int round = 0; round < 10; ++round) {
                const std::string word = std::to_string(thread * 100 + round);
                const auto done = used.capture({.argv = {"echo", word}}, soon());
                if (done && done->out == word + "\n" && used.ports(soon()))
                    ++good;
            }
        });
    }
    threads.clear();
    EXPECT_EQ(good, 160);
    EXPECT_EQ(fake.connections(), 1);
}

TEST_F(Library, ConnectsAgainWhenItsConnectionHasEnded) {
    ASSERT_TRUE(sandbox->ping(soon()));
    fake.cut();
    // What was under way, or finds out that it has ended, fails; the next call does not.
    (void)sandbox->ping(soon());
    EXPECT_TRUE(sandbox->ping(soon()));
    EXPECT_EQ(fake.connections(), 2);
}

TEST_F(Library, EnvironmentIsOfAllLaterCommands) {
    ASSERT_TRUE(sandbox->set_environment({{"ONE", "1"}, {"TWO", "2"}}, {}, soon()));
    ASSERT_TRUE(sandbox->set_environment({}, {"TWO"}, soon()));
    const auto done = sandbox->capture(Command::shell("echo $ONE-${TWO-unset}"), soon());
    ASSERT_TRUE(done);
    EXPECT_EQ(done->out, "1-unset\n");
    EXPECT_EQ(sandbox->set_environment({{"A=B", "c"}}, {}, soon()).error().code,
              Code::invalid_argument);
}

TEST_F(Library, ListsAndConnectsPorts) {
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* raw = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(::bind(listener.get(), raw, size), 0);
    ASSERT_EQ(::listen(listener.get(), 4), 0);
    ASSERT_EQ(::getsockname(listener.get(), raw, &size), 0);
    const uint16_t port = ntohs(address.sin_port);
    const auto ports = sandbox->ports(soon());
    ASSERT_TRUE(ports) << ports.error().message;
    const auto found = std::ranges::find(*ports, port, &Sandbox::Port::port);
    ASSERT_NE(found, ports->end());
    EXPECT_EQ(found->address, "127.0.0.1");
    const auto socket = sandbox->connect_port(port, soon());
    ASSERT_TRUE(socket) << socket.error().message;
    const UniqueFd server(::accept(listener.get(), nullptr, nullptr));
    ASSERT_EQ(::send(server.get(), "hi", 2, 0), 2);
    char bytes[2] = {};
    EXPECT_EQ(::recv(socket->fd(), bytes, 2, MSG_WAITALL), 2);
    EXPECT_EQ(std::string_view(bytes, 2), "hi");
    listener.reset();
    const auto refused = sandbox->connect_port(port, soon());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unavailable);
    EXPECT_THAT(refused.error().message, HasSubstr("nobody listens there"));
    EXPECT_EQ(sandbox->connect_port(0, soon()).error().code, Code::invalid_argument);
    EXPECT_EQ(sandbox->connect_socket("/no/such", soon()).error().code, Code::not_found);
}

TEST_F(Library, TellsOfAVmThatHasEnded) {
    ASSERT_TRUE(sandbox->ping(soon()));
    std::jthread killer([&] {
        std::this_thread::sleep_for(50ms);
        fake.kill_vmm();
    });
    const auto ended = sandbox->run({.argv = {"sleep", "1000"}}, {}, soon());
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, Code::unavailable);
    killer.join();
    EXPECT_FALSE(sandbox->alive().value());
    const Status dead = sandbox->ping(soon());
    ASSERT_FALSE(dead);
    EXPECT_THAT(dead.error().message, HasSubstr("its VM has ended"));
    EXPECT_TRUE(sandbox->destroy());
    EXPECT_EQ(sandbox->alive().error().code, Code::not_found);
    EXPECT_EQ(sandbox->ping(soon()).error().code, Code::not_found);
    EXPECT_EQ(sandbox->destroy().error().code, Code::not_found);
}

// (What a restart makes is tried by tests/soak and tests/e2e, with VMs.)
TEST_F(Library, ARestartThatIsRefusedOrFailsLeavesTheSandboxAsItWas) {
    const auto running = sandbox->restart(false, soon());
    ASSERT_FALSE(running);
    EXPECT_EQ(running.error().code, Code::unavailable);
    EXPECT_THAT(running.error().message, HasSubstr("is running"));
    EXPECT_EQ(sandbox->restart(true, soon()).error().code, Code::not_found);  // its template
    EXPECT_TRUE(sandbox->ping(soon()));
    fake.kill_vmm();
    const auto failed = sandbox->restart(false, soon());
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, Code::not_found);
    EXPECT_THAT(failed.error().message, HasSubstr("template 'fake'"));
    EXPECT_FALSE(sandbox->alive().value());
    EXPECT_TRUE(sandbox->destroy());
    EXPECT_EQ(sandbox->restart(false, soon()).error().code, Code::not_found);
}

// An agent of protocol version 2: it answers the one command, and knows nothing newer.
void serve_version_two(UniqueFd socket) {
    FrameReader reader;
    FrameBuilder builder;
    const auto answer = [&](uint32_t stream, auto body) {
        const auto frame = builder.finish(stream, body);
        EXPECT_EQ(::send(socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(frame.size()));
        builder.reset();
    };
    while (true) {
        const auto frame = reader.next();
        ASSERT_TRUE(frame);
        auto& buffer = builder.buffer();
        if (*frame == nullptr) {
            const auto room = reader.room();
            const ssize_t count = ::recv(socket.get(), room.data(), room.size(), 0);
            if (count <= 0)
                return;
            reader.received(static_cast<size_t>(count));
        } else if ((*frame)->body_as_Hello() != nullptr) {
            const auto version = buffer.CreateString("0.1.0");
            const auto boot = buffer.CreateString("boot");
            answer((*frame)->stream(),
                   wire::CreateHelloReply(buffer, 2, version, boot, wire::State::ready));
        } else {
            ASSERT_NE((*frame)->body_as_Exec(), nullptr)
                << "was sent " << wire::EnumNameBody((*frame)->body_type());
            answer((*frame)->stream(), wire::CreateStarted(buffer, 7, 0));
            answer((*frame)->stream(), wire::CreateExited(buffer, 5));
        }
    }
}

TEST_F(Library, WorksWithAnAgentOfTheVersionBefore) {
    std::list<std::jthread> agents;
    fake.connect_by([&](uint32_t port) {
        if (port != limits::kAgentPort)
            return UniqueFd();
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        agents.emplace_back(serve_version_two, UniqueFd(ends[0]));
        return UniqueFd(ends[1]);
    });
    const auto done = sandbox->run({.argv = {"x"}}, {}, soon());
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(done->status, 5);
    const auto newer = [&](const Error& error) {
        EXPECT_EQ(error.code, Code::host_unsupported);
        EXPECT_THAT(error.message, HasSubstr("protocol version 3"));
        EXPECT_THAT(error.message, HasSubstr("agent speaks 2"));
    };
    newer(sandbox->ports(soon()).error());
    newer(sandbox->connect_port(80, soon()).error());
    newer(sandbox->set_environment({{"A", "b"}}, {}, soon()).error());
    fake.cut();
}

}  // namespace
}  // namespace spore
