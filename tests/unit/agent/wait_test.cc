// Waiting for a port or for a line.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>

#include "hypervisor/base/agent_limits.h"
#include "tests/unit/agent/process_fixture.h"

namespace spore {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

// A port of the loopback of this machine, which is the agent's too. Nobody listens on it at first.
class Port {
  public:
    explicit Port(int family) : socket_(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in6 address = {};
        address.sin6_family = static_cast<sa_family_t>(family);
        address.sin6_addr = in6addr_loopback;
        if (family == AF_INET)
            reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof(address);
        bound_ = ::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address),
                        family == AF_INET ? sizeof(sockaddr_in) : size) == 0 &&
                 ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0;
        number_ = ntohs(address.sin6_port);
    }
    bool bound() const { return bound_; }
    uint16_t number() const { return number_; }
    void listen() { EXPECT_EQ(::listen(socket_.get(), 16), 0); }
    // Takes one connection, reads a request and answers.
    std::string serve(const std::string& answer) {
        UniqueFd client(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        std::string request;
        char bytes[512];
        while (request.find("\r\n\r\n") == std::string::npos) {
            const ssize_t count = ::read(client.get(), bytes, sizeof(bytes));
            if (count <= 0)
                break;
            request.append(bytes, static_cast<size_t>(count));
        }
        EXPECT_EQ(::send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(answer.size()));
        return request;
    }

  private:
    UniqueFd socket_;
    bool bound_ = false;
    uint16_t number_ = 0;
};

class WaitPort : public ProcessFixture {};
class WaitLog : public ProcessFixture {
  protected:
    std::string line(const ProcessName& process, const LineQuestion& question) {
        const auto found = processes->wait_log(process, question, soon());
        if (!found)
            return why(found);
        if (!found->line)
            return "ended " + std::to_string(found->end.exit_status);
        return found->line->line.substr(0, found->line->begin) + "<" +
               found->line->line.substr(found->line->begin, found->line->length) + ">" +
               found->line->line.substr(found->line->begin + found->line->length);
    }
};

TEST_F(WaitPort, UntilItTakesAConnection) {
    for (const int family : {AF_INET, AF_INET6}) {
        Port port(family);
        if (!port.bound()) {
            std::printf("no loopback address of family %d here: passed over\n", family);
            continue;
        }
        const auto none = processes->wait_port({.port = port.number(), .timeout = 30ms}, soon());
        EXPECT_THAT(why(none),
                    StartsWith("timeout: port " + std::to_string(port.number()) +
                               ": not ready within the time allowed: Connection refused"));
        std::jthread waiting([&] {
            const auto ready = processes->wait_port({.port = port.number()}, soon());
            EXPECT_TRUE(ready) << ready.error().message;
        });
        port.listen();
    }
}

TEST_F(WaitPort, UntilItAnswersWithAGoodStatus) {
    Port port(AF_INET);
    port.listen();
    std::jthread serving([&] {
        EXPECT_THAT(port.serve("HTTP/1.1 503 Not yet\r\n\r\n"),
                    StartsWith("GET /health?a=b HTTP/1.1\r\n"));
        port.serve("SSH-2.0-no HTTP at all\r\n");
        port.serve("");
        port.serve("HTTP/1.0 204 No Content\r\n\r\n");
    });
    const auto ready = processes->wait_port(
        {.port = port.number(), .http = true, .path = "/health?a=b", .status_max = 299}, soon());
    EXPECT_TRUE(ready) << ready.error().message;
}

TEST_F(WaitPort, TakesAnAnswerToItsEnd) {
    Port port(AF_INET);
    port.listen();
    // serve() expects that all of it is taken.
    std::jthread serving([&] {
        port.serve("HTTP/1.0 404 Not Found\r\n\r\n" + std::string(900'000, 'x'));
        port.serve("HTTP/1.0 200 OK\r\n\r\n" + std::string(900'000, 'x'));
    });
    const auto ready = processes->wait_port({.port = port.number(), .http = true}, soon());
    EXPECT_TRUE(ready) << ready.error().message;
}

TEST_F(WaitPort, SaysWhatItWasAnsweredLast) {
    Port port(AF_INET);
    port.listen();
    std::atomic<bool> over = false;
    std::jthread serving([&] {
        while (!over)
            port.serve("HTTP/1.1 404 Not Found\r\n\r\n");
    });
    const auto none =
        processes->wait_port({.port = port.number(), .http = true, .timeout = 300ms}, soon());
    EXPECT_THAT(why(none), HasSubstr("answers with status 404"));
    over = true;
    UniqueFd last(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {.sin_family = AF_INET,
                           .sin_port = htons(port.number()),
                           .sin_addr = {htonl(INADDR_LOOPBACK)},
                           .sin_zero = {}};
    ::connect(last.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
    last.reset();
}

TEST_F(WaitPort, EndsWithTheProcess) {
    Port port(AF_INET);  // nobody will listen
    const ProcessName process = start_script("sleep 0.2; exit 5");
    const auto end = processes->wait_port({.port = port.number(), .process = process}, soon());
    ASSERT_TRUE(end) << end.error().message;
    ASSERT_TRUE(*end);
    EXPECT_EQ((*end)->exit_status, 5);
}

TEST_F(WaitPort, RefusesWhatCannotBe) {
    EXPECT_THAT(why(processes->wait_port({.port = 0}, soon())),
                StartsWith("invalid_argument: port 0"));
    EXPECT_THAT(why(processes->wait_port({.port = 1, .http = true, .path = "a b"}, soon())),
                StartsWith("invalid_argument: path 'a b'"));
    EXPECT_THAT(why(processes->wait_port({.port = 1, .http = true, .path = "/\r\nX: y"}, soon())),
                StartsWith("invalid_argument: path"));
    EXPECT_THAT(why(processes->wait_port(
                    {.port = 1, .http = true, .status_min = 300, .status_max = 200}, soon())),
                StartsWith("invalid_argument: status 300 to 200"));
    EXPECT_THAT(why(processes->wait_port({.port = 1, .process = {.id = 77, .name = {}}}, soon())),
                StartsWith("not_found: process 77"));
}

TEST_F(WaitLog, FindsTheFirstLineThatHasIt) {
    const ProcessName process =
        start_script("echo one; echo 'port=80 port=81'; echo port=82 >&2; sleep 1000");
    EXPECT_EQ(line(process, {.pattern = "port="}), "<port=>80 port=81");
    EXPECT_EQ(line(process, {.pattern = "=8[12]$", .expression = true}), "port=80 port<=81>");
    EXPECT_EQ(line(process, {.pattern = "2"}), "port=8<2>");
    EXPECT_THAT(line(process, {.pattern = "nothing", .timeout = 50ms}),
                StartsWith("timeout: process"));
    EXPECT_THAT(line(process, {.pattern = "(", .expression = true}),
                StartsWith("invalid_argument: expression"));
    EXPECT_TRUE(processes->signal(process, SIGKILL, false, soon()));
}

TEST_F(WaitLog, WaitsForALineThatComesInPieces) {
    const ProcessName process = start({.command = {.argv = {"cat"}}, .with_stdin = true});
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]), out(ends[1]);
    std::jthread feeding([&] { EXPECT_TRUE(processes->input(process, in.get(), true, soon())); });
    ASSERT_EQ(::write(out.get(), "other\nRea", 9), 9);
    // The piece has come, and is no line.
    wait_for_logs(process, 9);
    std::jthread waiting([&] {
        EXPECT_EQ(line(process, {.pattern = "^Ready", .expression = true}), "<Ready> now");
    });
    ASSERT_EQ(::write(out.get(), "dy now\nmore", 11), 11);
    waiting.join();
    out.reset();
    feeding.join();
    // What is not ended by a newline is looked at, at the end.
    EXPECT_EQ(line(process, {.pattern = "ore"}), "m<ore>");
    EXPECT_EQ(line(process, {.pattern = "ready"}), "ended 0");
}

TEST_F(WaitLog, CutsLongLines) {
    const ProcessName process =
        start_script("head -c 100000 /dev/zero | tr '\\0' x; echo; echo end");
    wait(process);
    const auto found = processes->wait_log(process, {.pattern = "x$", .expression = true}, soon());
    ASSERT_TRUE(found && found->line);
    EXPECT_EQ(found->line->line.size(), limits::kLogLineBytesMax);
    EXPECT_EQ(line(process, {.pattern = "end"}), "<end>");
}

}  // namespace
}  // namespace spore
