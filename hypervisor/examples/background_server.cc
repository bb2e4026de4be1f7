// background_server TEMPLATE: a web server in a sandbox without a network, and a request to it.

#include <spore/host.h>
#include <sys/socket.h>

#include <cstdio>

namespace {

spore::Result<std::string> get(const spore::Sandbox& sandbox, uint16_t port) {
    const auto call = spore::Call::within(std::chrono::minutes(1));
    const auto socket = sandbox.connect_port(port, call);
    if (!socket)
        return std::unexpected(socket.error());
    constexpr std::string_view kRequest = "GET /hello HTTP/1.0\r\n\r\n";
    if (::send(socket->fd(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL) < 0)
        return std::unexpected(spore::Error{spore::Code::unavailable, "the server has gone"});
    std::string answer;
    char chunk[4096];
    for (ssize_t count = 0; (count = ::recv(socket->fd(), chunk, sizeof(chunk), 0)) > 0;)
        answer.append(chunk, static_cast<size_t>(count));
    return answer;
}

spore::Status serve(const spore::Sandbox& sandbox) {
    const auto call = spore::Call::within(std::chrono::minutes(1));
    // It runs on without this program; `find_process("web")` finds it again.
    const auto server = sandbox.start(
        {.command = spore::Command::shell("mkdir -p /srv && cd /srv && echo it works > hello && "
                                          "exec python3 -m http.server 8080"),
         .name = "web"},
        call);
    if (!server)
        return std::unexpected(server.error());
    const auto end = server->wait_port({.port = 8080, .http = true, .path = "/hello"}, call);
    if (!end)
        return std::unexpected(end.error());
    if (*end)
        return std::unexpected(spore::Error{spore::Code::unavailable, "the server has ended"});
    const auto answer = get(sandbox, 8080);
    if (!answer)
        return std::unexpected(answer.error());
    std::printf("%s", answer->c_str());
    // What it has written of the two requests.
    return server->logs(
        [](const spore::Process::Output& output) -> spore::Status {
            std::fwrite(output.bytes.data(), 1, output.bytes.size(), stdout);
            return {};
        },
        false, 0, call);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: background_server TEMPLATE\n");
        return 64;
    }
    const auto host = spore::Host::open();
    const auto sandbox =
        host ? host->create_sandbox({.template_name = argv[1]}) : std::unexpected(host.error());
    spore::Status status = sandbox ? serve(*sandbox) : std::unexpected(sandbox.error());
    if (sandbox) {
        const spore::Status destroyed = sandbox->destroy();
        if (status)
            status = destroyed;
    }
    if (!status)
        std::fprintf(stderr, "%s\n", status.error().message.c_str());
    return status ? 0 : 1;
}
