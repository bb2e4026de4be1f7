#include "hypervisor/sandbox/agent_ports.h"

#include <sys/socket.h>

#include <algorithm>
#include <tuple>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/vsock_port.h"

namespace spore {

namespace {

// "ERROR word message": above the path that it may name.
constexpr size_t kAnswerBytesMax = 1024;

Status check_line(const std::string& line) {
    if (line.size() < limits::kForwardLineBytesMax && line.find('\n') == std::string::npos)
        return {};
    return fail(Code::invalid_argument,
                "path of a socket in the guest: must be below 108 bytes, without a newline");
}

Result<UniqueFd> connect_forward(const std::filesystem::path& run_directory,
                                 const std::string& line, AgentClient::Deadline deadline) {
    TRY(check_line(line));
    auto stream = connect_vsock(run_directory / kVsockName, limits::kAgentForwardPort, deadline);
    if (!stream)
        return std::unexpected(std::move(stream).error().within("agent"));
    TRY(request_forward(stream->socket.get(), line, deadline));
    return std::move(stream->socket);
}

}  // namespace

Status request_forward(int socket, const std::string& line, AgentClient::Deadline deadline) {
    TRY(check_line(line));
    const std::string request = line + "\n";
    if (::send(socket, request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size()))
        return fail(Code::unavailable, "agent: takes no connection to a port");
    auto answer = receive_line(socket, kAnswerBytesMax, deadline);
    if (!answer)
        return std::unexpected(std::move(answer).error().within("agent"));
    if (*answer == "OK")
        return {};
    constexpr std::string_view kError = "ERROR ";
    const size_t space = answer->find(' ', kError.size());
    if (!answer->starts_with(kError) || space == std::string::npos)
        return fail(Code::corrupt, "agent: answered '" + answer->substr(0, 80) + "' to " + line);
    const std::string_view word(answer->data() + kError.size(), space - kError.size());
    return fail(code_from_name(word), answer->substr(space + 1));
}

Result<UniqueFd> connect_port(const std::filesystem::path& run_directory, uint16_t port,
                              AgentClient::Deadline deadline) {
    if (port == 0)
        return fail(Code::invalid_argument, "port 0: must be 1 to 65535");
    return connect_forward(run_directory, "PORT " + std::to_string(port), deadline);
}

Result<UniqueFd> connect_guest_socket(const std::filesystem::path& run_directory,
                                      const std::string& path, AgentClient::Deadline deadline) {
    return connect_forward(run_directory, "UNIX " + path, deadline);
}

Result<std::vector<ListeningPort>> list_ports(AgentConnection& agent,
                                              AgentClient::Deadline deadline) {
    AgentStream stream = agent.open();
    TRY(stream.send(wire::CreatePortList(stream.buffer())));
    std::vector<ListeningPort> ports;
    while (true) {
        const auto* frame = TRY(stream.receive(deadline));
        if (frame != nullptr && frame->body_as_Done() != nullptr)
            break;
        const auto* info = frame == nullptr ? nullptr : frame->body_as_PortInfo();
        if (info == nullptr || ports.size() >= limits::kListenersMax) {
            stream.fail_connection("agent: answers PortList wrongly");
            return fail(Code::corrupt, "agent: answers PortList wrongly");
        }
        ports.push_back({info->port(), info->address()->str(), info->pid(),
                         std::string(view(info->process())), info->uid()});
    }
    std::ranges::sort(ports, {},
                      [](const ListeningPort& each) { return std::tie(each.port, each.address); });
    return ports;
}

}  // namespace spore
