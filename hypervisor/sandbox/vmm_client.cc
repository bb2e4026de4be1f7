#include "hypervisor/sandbox/vmm_client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdio>
#include <functional>

#include "hypervisor/base/deadline.h"
#include "hypervisor/base/limits.h"
#include "hypervisor/sandbox/guest.h"
#include "schema/control_generated.h"

namespace spore {

namespace fb = control::fb;

namespace {

constexpr const char* kIdentifier = "SPCT";
constexpr size_t kPacketBytesMax = 64 * limits::kKiB;

flatbuffers::FlatBufferBuilder request(
    fb::Request type,
    const std::function<flatbuffers::Offset<void>(flatbuffers::FlatBufferBuilder&)>& body) {
    flatbuffers::FlatBufferBuilder builder;
    auto table = body(builder);
    builder.Finish(fb::CreateRequestMessage(builder, type, table), kIdentifier);
    return builder;
}

Error failure_of(const fb::Failure* failure) {
    return {code_from_name(failure->code()->str()), failure->message()->str()};
}

}  // namespace

Result<VmmClient> VmmClient::connect(const std::filesystem::path& directory) {
    return VmmClient(TRY(connect_unix(directory, "control", SOCK_SEQPACKET)));
}

Result<int> VmmClient::peer() const {
    ucred credentials = {};
    socklen_t size = sizeof(credentials);
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
        return fail_errno("SO_PEERCRED");
    return credentials.pid;
}

Status VmmClient::send_packet(const void* packet, size_t size) {
    if (::send(socket_.get(), packet, size, MSG_NOSIGNAL) < 0)
        return fail(Code::unavailable, std::string("spore-vmm: ") + std::strerror(errno));
    return {};
}

Result<std::vector<std::byte>> VmmClient::exchange(const void* packet, size_t size,
                                                   Deadline deadline) {
    TRY(send_packet(packet, size));
    return receive_packet(deadline);
}

Result<std::vector<std::byte>> VmmClient::receive_packet(Deadline deadline) {
    TRY(wait_readable(socket_.get(), deadline, "spore-vmm: no answer within the time allowed"));
    std::vector<std::byte> reply(kPacketBytesMax);
    ssize_t got = ::recv(socket_.get(), reply.data(), reply.size(), 0);
    if (got <= 0)
        return fail(Code::unavailable, "spore-vmm: has ended");
    reply.resize(static_cast<size_t>(got));
    flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(reply.data()), reply.size());
    if (!verifier.VerifyBuffer<fb::ReplyMessage>(kIdentifier))
        return fail(Code::corrupt, "spore-vmm: its answer is not one");
    return reply;
}

Status give_go(const std::filesystem::path& directory, const CloneGo& word) {
    UniqueFd go(::open((directory / kGoName).c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (!go && errno == ENXIO)
        return fail(Code::unavailable, "the clone that waited has died");
    if (!go || ::write(go.get(), &word, sizeof(word)) != sizeof(word))
        return fail_errno((directory / kGoName).string());
    return {};
}

Status VmmClient::expect_done(const void* packet, size_t size, Deadline deadline) {
    TRY(send_packet(packet, size));
    return receive_done(deadline);
}

Status VmmClient::receive_done(Deadline deadline) {
    auto reply = TRY(receive_packet(deadline));
    auto* message = flatbuffers::GetRoot<fb::ReplyMessage>(reply.data());
    if (auto* failure = message->reply_as_Failure())
        return std::unexpected(failure_of(failure));
    if (message->reply_type() != fb::Reply::Done)
        return fail(Code::corrupt, "spore-vmm: answered something else than asked");
    return {};
}

Result<VmmStatus> VmmClient::status(Deadline deadline) {
    auto packet = request(fb::Request::GetStatus,
                          [](auto& builder) { return fb::CreateGetStatus(builder).Union(); });
    auto reply = TRY(exchange(packet.GetBufferPointer(), packet.GetSize(), deadline));
    auto* message = flatbuffers::GetRoot<fb::ReplyMessage>(reply.data());
    if (auto* failure = message->reply_as_Failure())
        return std::unexpected(failure_of(failure));
    auto* table = message->reply_as_Status();
    if (table == nullptr)
        return fail(Code::corrupt, "spore-vmm: answered something else than asked");
    VmmStatus status;
    status.state = fb::EnumNameRunState(table->state());
    status.memory_bytes = table->memory_bytes();
    status.cpus = table->cpus();
    status.pid = static_cast<int>(table->pid());
    if (table->counters() != nullptr) {
        for (const fb::Counter* counter : *table->counters()) {
            if (counter->name() != nullptr)
                status.counters.emplace_back(counter->name()->str(), counter->value());
        }
    }
    if (table->jail() != nullptr) {
        for (const fb::JailItem* item : *table->jail())
            status.jail.items.push_back({item->name()->str(), item->holds(),
                                         item->why() == nullptr ? "" : item->why()->str(),
                                         item->path() == nullptr ? "" : item->path()->str()});
    }
    return status;
}

Status VmmClient::pause(Deadline deadline) {
    auto packet =
        request(fb::Request::Pause, [](auto& builder) { return fb::CreatePause(builder).Union(); });
    return expect_done(packet.GetBufferPointer(), packet.GetSize(), deadline);
}

Status VmmClient::resume(Deadline deadline) {
    TRY(begin_resume());
    return finish_resume(deadline);
}

Status VmmClient::begin_resume() {
    auto packet = request(fb::Request::Resume,
                          [](auto& builder) { return fb::CreateResume(builder).Union(); });
    return send_packet(packet.GetBufferPointer(), packet.GetSize());
}

Status VmmClient::finish_resume(Deadline deadline) {
    return receive_done(deadline);
}

Status VmmClient::snapshot(const std::filesystem::path& directory, const VsockCarry& carry,
                           Deadline deadline) {
    auto packet = request(fb::Request::Snapshot, [&](auto& builder) {
        return fb::CreateSnapshotDirect(builder, directory.c_str(), carry.host_port,
                                        carry.guest_port)
            .Union();
    });
    return expect_done(packet.GetBufferPointer(), packet.GetSize(), deadline);
}

Status VmmClient::set_limits(const VmmLimits& limits, Deadline deadline) {
    TRY(begin_set_limits(limits));
    return finish_set_limits(deadline);
}

Status VmmClient::begin_set_limits(const VmmLimits& limits) {
    auto packet = request(fb::Request::SetLimits, [&](auto& builder) {
        auto table = [&](const std::optional<RateLimits>& from) {
            if (!from)
                return flatbuffers::Offset<fb::RateLimits>();
            auto rate = [&](const Rate& one) {
                return fb::CreateRate(builder, one.per_second, one.burst);
            };
            auto bytes = rate(from->bytes);
            auto operations = rate(from->operations);
            return fb::CreateRateLimits(builder, bytes, operations);
        };
        auto disk = table(limits.disk);
        auto rx = table(limits.network);
        auto tx = table(limits.network);
        return fb::CreateSetLimits(builder, disk, rx, tx, limits.disk_bytes).Union();
    });
    return send_packet(packet.GetBufferPointer(), packet.GetSize());
}

Status VmmClient::quit(Deadline deadline) {
    auto packet =
        request(fb::Request::Quit, [](auto& builder) { return fb::CreateQuit(builder).Union(); });
    return expect_done(packet.GetBufferPointer(), packet.GetSize(), deadline);
}

}  // namespace spore
