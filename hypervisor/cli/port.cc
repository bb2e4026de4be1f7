// spore port list|forward|connect

#include <arpa/inet.h>
#include <sys/socket.h>

#include <atomic>
#include <charconv>
#include <memory>
#include <thread>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/base/one_line.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/relay.h"
#include "hypervisor/sandbox/agent_ports.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::cli {

namespace {

constexpr std::chrono::seconds kLimit{20};

AgentClient::Deadline soon() {
    return std::chrono::steady_clock::now() + kLimit;
}

// Of a sandbox whose VM lives.
Result<std::filesystem::path> running(const std::string& id) {
    auto home = TRY(Home::open());
    if (!TRY(find_sandbox(home, id)).alive)
        return fail(Code::unavailable,
                    "sandbox '" + id + "': its VM has ended; restart or destroy it");
    return run_directory(home, id);
}

Status list_all(Context& context, const std::string& id) {
    auto agent = TRY(AgentConnection::over(TRY(connect_agent(TRY(running(id)), soon()))));
    const auto ports = TRY(list_ports(*agent, soon()));
    if (context.globals.json) {
        nlohmann::json document = nlohmann::json::array();
        for (const ListeningPort& port : ports)
            document.push_back({{"port", port.port},
                                {"address", port.address},
                                {"pid", port.pid},
                                {"process", port.process},
                                {"uid", port.uid}});
        print_json(document);
        return {};
    }
    Table table({"PORT", "ADDRESS", "PID", "PROCESS", "UID"});
    for (const ListeningPort& port : ports)
        table.add({std::to_string(port.port), port.address,
                   port.pid == 0 ? "-" : std::to_string(port.pid), one_line(port.process),
                   std::to_string(port.uid)});
    table.print();
    return {};
}

Result<uint16_t> parse_port(std::string_view text, uint16_t least) {
    uint16_t port = 0;
    const char* end = text.data() + text.size();
    const auto [last, error] = std::from_chars(text.data(), end, port);
    if (error != std::errc() || last != end || port < least)
        return fail(Code::invalid_argument, "port '" + std::string(text) + "': must be " +
                                                std::to_string(least) + " to 65535");
    return port;
}

struct Route {
    uint16_t listen = 0;  // 0: one that is free
    uint16_t port = 0;
};

// "8080": the same on both sides; "9000:8080", "0:8080".
Result<Route> parse_route(std::string_view text) {
    const size_t colon = text.find(':');
    if (colon == std::string_view::npos) {
        const uint16_t port = TRY(parse_port(text, 1));
        return Route{port, port};
    }
    return Route{TRY(parse_port(text.substr(0, colon), 0)),
                 TRY(parse_port(text.substr(colon + 1), 1))};
}

// On this host's loopback alone; `port` becomes the one that it got.
Result<UniqueFd> listen_here(uint16_t& port) {
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket)
        return fail_errno("socket");
    const int on = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* raw = reinterpret_cast<sockaddr*>(&address);
    if (::bind(socket.get(), raw, size) != 0 || ::listen(socket.get(), SOMAXCONN) != 0 ||
        ::getsockname(socket.get(), raw, &size) != 0)
        return fail_errno("port " + std::to_string(port) + " of this host");
    port = ntohs(address.sin_port);
    return socket;
}

// One connection, to its end. Who connected sees a port where nobody listens as a reset.
void serve(const std::filesystem::path& directory, uint16_t port, UniqueFd local) {
    const auto guest = connect_port(directory, port, soon());
    if (guest && relay(local.get(), guest->get()))
        return;
    if (!guest)
        std::fprintf(stderr, "spore: port forward: %s\n", guest.error().message.c_str());
    const linger reset = {1, 0};
    ::setsockopt(local.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

Status forward(Context& context, const std::string& id, const std::string& text) {
    Route route = TRY(parse_route(text));
    const auto directory = TRY(running(id));
    const UniqueFd listener = TRY(listen_here(route.listen));
    if (context.globals.json)
        std::printf("%s\n",
                    nlohmann::json(
                        {{"address", "127.0.0.1"}, {"listen", route.listen}, {"port", route.port}})
                        .dump()
                        .c_str());
    else
        std::printf("127.0.0.1:%u -> port %u of %s\n", route.listen, route.port, id.c_str());
    std::fflush(stdout);
    const auto open = std::make_shared<std::atomic<uint32_t>>(0);
    while (true) {
        open->wait(limits::kAgentForwardsMax);  // more than the agent takes wait with the kernel
        UniqueFd local(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!local && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (!local)
            return fail_errno("accept");
        ++*open;
        std::thread([directory, port = route.port, open, local = std::move(local)]() mutable {
            serve(directory, port, std::move(local));
            --*open;
            open->notify_one();
        }).detach();
    }
}

Status connect(const std::string& id, const std::string& text) {
    const uint16_t port = TRY(parse_port(text, 1));
    const UniqueFd guest = TRY(connect_port(TRY(running(id)), port, soon()));
    return relay_standard(guest.get());
}

}  // namespace

void add_port(CLI::App& app, Context& context) {
    CLI::App* group = app.add_subcommand("port", "TCP ports in a sandbox, without its network");
    group->require_subcommand(1);
    auto id = std::make_shared<std::string>();
    auto port = std::make_shared<std::string>();

    CLI::App* list = group->add_subcommand("list", "who listens in the sandbox");
    list->add_option("id", *id, "the sandbox")->required();
    on_chosen(list, context, [&context, id] { return list_all(context, *id); });

    CLI::App* command = group->add_subcommand(
        "forward", "listen on this host's 127.0.0.1 and pass connections to the sandbox");
    command->add_option("id", *id, "the sandbox")->required();
    command->add_option("port", *port, "[LISTEN:]PORT; LISTEN 0: one that is free")->required();
    on_chosen(command, context, [&context, id, port] { return forward(context, *id, *port); });

    CLI::App* one = group->add_subcommand(
        "connect", "one connection to a port, over standard input and output");
    one->add_option("id", *id, "the sandbox")->required();
    one->add_option("port", *port, "the sandbox's port")->required();
    on_chosen(one, context, [id, port] { return connect(*id, *port); });
}

}  // namespace spore::cli
