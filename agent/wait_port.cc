// WaitPort: until a port of the guest's loopback takes a connection, or answers as HTTP.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>

#include "agent/process_streams.h"
#include "agent/timer.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPauseMin{5};
constexpr milliseconds kPauseMax{200};
// A server that has taken a connection and is silent may never have seen it: another is made.
constexpr milliseconds kAttemptLimit{5000};
// "HTTP/1.1 200", and what precedes it is not looked for.
constexpr size_t kStatusLineBytes = 12;
// The rest of an answer is read, so that no server complains of a connection that was reset; but
// not of one that goes on for ever.
constexpr milliseconds kRestLimit{500};
constexpr size_t kRestBytesMax = 1 << 20;

sockaddr_storage loopback(int family, uint16_t port) {
    sockaddr_storage storage = {};
    if (family == AF_INET) {
        auto& address = reinterpret_cast<sockaddr_in&>(storage);
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
        auto& address = reinterpret_cast<sockaddr_in6&>(storage);
        address.sin6_family = AF_INET6;
        address.sin6_port = htons(port);
        address.sin6_addr = in6addr_loopback;
    }
    return storage;
}

// A connection to a port that nobody listens on may meet itself (TCP's simultaneous open), if the
// kernel happens to take that very port for its own end.
bool met_itself(int socket) {
    sockaddr_storage own = {}, peer = {};
    socklen_t own_size = sizeof(own), peer_size = sizeof(peer);
    return ::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &own_size) != 0 ||
           ::getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0 ||
           (own_size == peer_size && std::memcmp(&own, &peer, own_size) == 0);
}

// What is asked of the port, checked.
struct Question {
    uint16_t port = 0;
    bool http = false;
    std::string path;
    int status_min = 0;
    int status_max = 0;

    static Result<Question> of(const wire::WaitPort& request);
};

class PortStream final : public ProcessStream {
  public:
    PortStream(const Request& request, Process* process, Question question)
        : ProcessStream(request, process), question_(std::move(question)) {
        limit_.set_timeout_ms(request.body<wire::WaitPort>().timeout_ms());
        connect(AF_INET);
    }
    void on_change() override {
        if (!done() && process_->ended())
            end([this] { finish_with_end(); });
    }
    void cancel() override {
        end([this] { Stream::cancel(); });
    }

  private:
    // One connection to one address after another; then a pause.
    void connect(int family);
    void on_ready();
    void connected();
    void read_status();
    void read_rest();
    void conclude();
    void failed(std::string why);
    void on_timeout();
    template <typename Finish>
    void end(Finish finish_now) {
        socket_.close();
        attempt_.clear();
        limit_.clear();
        if (!done())
            finish_now();
    }

    Question question_;
    Watch socket_;
    int family_ = AF_INET;
    int next_family_ = AF_INET6;
    bool connected_ = false;
    std::string answer_;
    bool status_known_ = false;
    std::string verdict_;  // why the answer is none that is waited for; empty: it is one
    size_t rest_bytes_ = 0;
    std::string last_failure_ = "no answer yet";
    milliseconds pause_ = kPauseMin;
    // Of an attempt, and of the pause before the next.
    Timer attempt_{server_.timers(), [this] {
                       if (status_known_)
                           conclude();
                       else if (socket_)
                           failed("no answer");
                       else if (!done())
                           connect(next_family_);
                   }};
    Timer limit_{server_.timers(), [this] { on_timeout(); }};
};

void PortStream::connect(int family) {
    family_ = family;
    connected_ = false;
    answer_.clear();
    status_known_ = false;
    rest_bytes_ = 0;
    UniqueFd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return failed(std::strerror(errno));
    const sockaddr_storage address = loopback(family, question_.port);
    const int result = ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address),
                                 family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    if (result != 0 && errno != EINPROGRESS)
        return failed(std::strerror(errno));
    socket_.open(server_.poller(), std::move(socket), [this](uint32_t) { on_ready(); });
    attempt_.set(Timers::Clock::now() + kAttemptLimit);
    if (!socket_.want(kWritable))
        failed("cannot be waited for");
}

void PortStream::on_ready() {
    if (status_known_)
        return read_rest();
    if (connected_)
        return read_status();
    int error = 0;
    socklen_t size = sizeof(error);
    if (::getsockopt(socket_.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0)
        return failed(std::strerror(error));
    if (met_itself(socket_.fd()))
        return failed(std::strerror(ECONNREFUSED));
    connected();
}

void PortStream::connected() {
    connected_ = true;
    if (!question_.http)
        return end([this] { finish(wire::CreateDone(connection_.buffer())); });
    const std::string request = "GET " + question_.path +
                                " HTTP/1.1\r\nHost: localhost:" + std::to_string(question_.port) +
                                "\r\nConnection: close\r\nAccept: */*\r\n\r\n";
    // A new connection's buffer holds more than the longest path.
    const ssize_t sent = ::send(socket_.fd(), request.data(), request.size(), MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(request.size()))
        return failed("takes no request");
    if (!socket_.want(kReadable))
        failed("cannot be waited for");
}

void PortStream::read_status() {
    std::array<char, kStatusLineBytes> bytes;
    const ssize_t count =
        ::recv(socket_.fd(), bytes.data(), kStatusLineBytes - answer_.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        return failed("ends without an answer");
    answer_.append(bytes.data(), static_cast<size_t>(count));
    if (answer_.size() < kStatusLineBytes)
        return;
    int status = 0;
    const char* const digits = answer_.data() + kStatusLineBytes - 3;
    const auto [stop, error] = std::from_chars(digits, digits + 3, status);
    if (!answer_.starts_with("HTTP/") || error != std::errc() || stop != digits + 3)
        return failed("does not answer as HTTP");
    const bool wanted = status >= question_.status_min && status <= question_.status_max;
    verdict_ = wanted ? std::string() : "answers with status " + std::to_string(status);
    if (!wanted)
        last_failure_ = verdict_;
    status_known_ = true;
    attempt_.set(Timers::Clock::now() + kRestLimit);
    read_rest();
}

void PortStream::read_rest() {
    const ssize_t count =
        ::recv(socket_.fd(), server_.scratch().data(), server_.scratch().size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    rest_bytes_ += static_cast<size_t>(std::max<ssize_t>(count, 0));
    if (count <= 0 || rest_bytes_ > kRestBytesMax)
        conclude();
}

void PortStream::conclude() {
    status_known_ = false;
    if (!verdict_.empty())
        return failed(std::exchange(verdict_, {}));
    end([this] { finish(wire::CreateDone(connection_.buffer())); });
}

void PortStream::failed(std::string why) {
    socket_.close();
    attempt_.clear();
    // What listens on one address alone is no secret of the other's.
    if (family_ == AF_INET || why != std::strerror(ECONNREFUSED))
        last_failure_ = std::move(why);
    // By the timer in any case: this may be the socket's own handler, that the next would replace.
    next_family_ = family_ == AF_INET ? AF_INET6 : AF_INET;
    attempt_.set(Timers::Clock::now() + (family_ == AF_INET ? milliseconds(0) : pause_));
    if (family_ != AF_INET)
        pause_ = std::min(pause_ * 2, kPauseMax);
}

void PortStream::on_timeout() {
    end([this] {
        finish(Error{Code::timeout, "port " + std::to_string(question_.port) +
                                        ": not ready within the time allowed: " + last_failure_});
    });
}

Result<Question> Question::of(const wire::WaitPort& request) {
    Question question;
    question.port = request.port();
    question.http = request.protocol() == wire::PortProtocol::http;
    question.path = view(request.path());
    question.status_min = request.status_min() == 0 ? 200 : request.status_min();
    question.status_max = request.status_max() == 0 ? 399 : request.status_max();
    if (question.path.empty())
        question.path = "/";
    if (question.port == 0)
        return fail(Code::invalid_argument, "port 0: must be 1 to 65535");
    if (!question.http && request.protocol() != wire::PortProtocol::tcp)
        return fail(Code::invalid_argument, "port's protocol: is neither tcp nor http");
    const bool plain =
        std::ranges::all_of(question.path, [](char c) { return c > ' ' && c < 127; });
    if (question.path[0] != '/' || !plain || question.path.size() > limits::kPathBytesMax) {
        return fail(Code::invalid_argument,
                    "path '" + question.path.substr(0, 80) +
                        "': must begin with '/' and have printable ASCII characters only, " +
                        std::to_string(limits::kPathBytesMax) + " at most");
    }
    if (question.status_min > question.status_max) {
        return fail(Code::invalid_argument, "status " + std::to_string(question.status_min) +
                                                " to " + std::to_string(question.status_max) +
                                                ": is no range");
    }
    return question;
}

}  // namespace

Result<std::unique_ptr<Stream>> serve_wait_port(const Request& request) {
    const auto& wait = request.body<wire::WaitPort>();
    Process* process = nullptr;
    if (wait.id() != 0 || !view(wait.name()).empty())
        process = TRY(named_process(request.server.processes(), wait));
    auto stream = std::make_unique<PortStream>(request, process, TRY(Question::of(wait)));
    if (process != nullptr)
        stream->on_change();
    return stream;
}

}  // namespace spore
