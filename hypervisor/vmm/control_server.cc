#include "hypervisor/vmm/control_server.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>

#include "hypervisor/base/limits.h"
#include "hypervisor/jail/jail.h"
#include "schema/control_generated.h"

namespace spore {

namespace fb = control::fb;

namespace {
constexpr size_t kClientsMax = 16;
constexpr size_t kPacketBytesMax = 16 * limits::kKiB;  // above a path and a table
constexpr const char* kIdentifier = "SPCT";

Rate rate_of(const fb::Rate* rate) {
    return rate == nullptr ? Rate{} : Rate{rate->per_second(), rate->burst()};
}

// All of them, or none where one is refused.
Status set_limits(const fb::SetLimits& request, ControlTarget& target) {
    ControlTarget::Limits limits;
    auto take = [](const char* what, const fb::RateLimits* from, const char* unit,
                   std::optional<RateLimits>& to) -> Status {
        if (from == nullptr)
            return {};
        to = RateLimits{rate_of(from->bytes()), rate_of(from->operations())};
        return check_rate_limits(what, *to, unit);
    };
    TRY(take("disk", request.disk(), "ops", limits.disk));
    TRY(take("net_rx", request.net_rx(), "packets", limits.network_rx));
    TRY(take("net_tx", request.net_tx(), "packets", limits.network_tx));
    limits.disk_bytes = request.disk_bytes();
    return target.control_limits(limits);
}
}  // namespace

struct ControlServer::Client {
    Client(ControlServer& server, RingFile file)
        : socket(std::move(file)),
          recv_op([this, &server](int32_t result) {
              if (result <= 0)
                  server.drop(*this);
              else
                  server.serve(*this, static_cast<size_t>(result));
          }),
          send_op([this, &server](int32_t result) {
              if (result < 0)
                  server.drop(*this);
              else
                  server.receive_next(*this);
          }) {}

    RingFile socket;
    std::vector<std::byte> request = std::vector<std::byte>(kPacketBytesMax);
    std::vector<std::byte> answer;
    Operation recv_op;
    Operation send_op;
};

Result<UniqueFd> bind_control_socket(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
        return fail(Code::invalid_argument,
                    "control socket '" + path + "': " + std::to_string(path.size()) +
                        " bytes long, at most " + std::to_string(sizeof(address.sun_path) - 1));
    path.copy(address.sun_path, path.size());
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return fail_errno("control socket");
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
        return fail_errno("control socket '" + path + "'", errno == EADDRINUSE ? EEXIST : errno);
    return socket;
}

Result<std::unique_ptr<ControlServer>> ControlServer::listen(EventLoop& loop, ControlTarget& target,
                                                             UniqueFd socket,
                                                             const std::string& path) {
    if (::listen(socket.get(), kClientsMax) != 0)
        return fail_errno("control socket '" + path + "': listen");
    auto file = TRY(loop.add_file(std::move(socket)));
    std::unique_ptr<ControlServer> server(new ControlServer(loop, target, path, std::move(file)));
    server->accept_next();
    return server;
}

ControlServer::ControlServer(EventLoop& loop, ControlTarget& target, std::string path,
                             RingFile socket)
    : loop_(loop),
      target_(target),
      path_(std::move(path)),
      socket_(std::move(socket)),
      accept_op_([this](int32_t result) {
          if (result == -ECANCELED)
              return;
          if (result >= 0) {
              UniqueFd fd(result);
              auto file = clients_.size() < kClientsMax
                              ? loop_.add_file(std::move(fd))
                              : Result<RingFile>(fail(Code::resource_exhausted, "clients"));
              if (file) {  // else the descriptor is closed: the client sees the end
                  clients_.push_back(std::make_unique<Client>(*this, std::move(*file)));
                  receive_next(*clients_.back());
              }
          }
          accept_next();
      }) {}

ControlServer::~ControlServer() {
    if (!path_.empty())
        ::unlink(path_.c_str());
}

void ControlServer::accept_next() {
    loop_.accept(accept_op_, socket_);
}

void ControlServer::receive_next(Client& client) {
    loop_.recv(client.recv_op, client.socket, client.request);
}

void ControlServer::drop(Client& client) {
    // Not from within its own operation's handler.
    loop_.defer([this, gone = &client] {
        std::erase_if(clients_, [gone](const auto& other) { return other.get() == gone; });
    });
}

void ControlServer::serve(Client& client, size_t bytes) {
    flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(client.request.data()), bytes);
    if (!verifier.VerifyBuffer<fb::RequestMessage>(kIdentifier)) {
        reply(client, fail(Code::invalid_argument, "control: the packet is not a request"));
        return;
    }
    auto* message = flatbuffers::GetRoot<fb::RequestMessage>(client.request.data());
    auto answer = [this, &client](Status status) { reply(client, status); };
    switch (message->request_type()) {
        case fb::Request::GetStatus: {
            auto status = target_.control_status();
            flatbuffers::FlatBufferBuilder builder;
            std::vector<flatbuffers::Offset<fb::Counter>> counters;
            for (const auto& [name, value] : status.counters)
                counters.push_back(fb::CreateCounterDirect(builder, name.c_str(), value));
            std::vector<flatbuffers::Offset<fb::JailItem>> jail;
            for (const JailItem& item : jail_report().items)
                jail.push_back(fb::CreateJailItemDirect(builder, item.name.c_str(), item.holds,
                                                        item.why.c_str(), item.path.c_str()));
            auto table = fb::CreateStatusDirect(
                builder, static_cast<fb::RunState>(status.state), status.memory_bytes, status.cpus,
                static_cast<uint32_t>(::getpid()), &counters, &jail);
            builder.Finish(fb::CreateReplyMessage(builder, fb::Reply::Status, table.Union()),
                           kIdentifier);
            send_packet(client,
                        std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize())));
            break;
        }
        case fb::Request::Pause:
            target_.control_pause(answer);
            break;
        case fb::Request::Resume:
            target_.control_resume(answer);
            break;
        case fb::Request::Snapshot: {
            auto* request = message->request_as_Snapshot();
            std::optional<VsockPorts> carry;
            if (request->carry_host_port() != 0)
                carry = {request->carry_host_port(), request->carry_guest_port()};
            target_.control_snapshot(request->directory()->str(), carry, answer);
            break;
        }
        case fb::Request::SetLimits:
            reply(client, set_limits(*message->request_as_SetLimits(), target_));
            break;
        case fb::Request::Quit:
            target_.control_quit();
            reply(client, {});
            break;
        default:
            reply(client, fail(Code::invalid_argument, "control: this request is not known here"));
    }
}

void ControlServer::reply(Client& client, const Status& status) {
    flatbuffers::FlatBufferBuilder builder;
    flatbuffers::Offset<void> body;
    if (status) {
        body = fb::CreateDone(builder).Union();
    } else {
        std::string code(code_name(status.error().code));
        body =
            fb::CreateFailureDirect(builder, code.c_str(), status.error().message.c_str()).Union();
    }
    builder.Finish(
        fb::CreateReplyMessage(builder, status ? fb::Reply::Done : fb::Reply::Failure, body),
        kIdentifier);
    send_packet(client, std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize())));
}

void ControlServer::send_packet(Client& client, std::span<const std::byte> packet) {
    client.answer.assign(packet.begin(), packet.end());
    loop_.send(client.send_op, client.socket, client.answer);
}

}  // namespace spore
