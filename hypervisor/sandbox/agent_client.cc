#include "hypervisor/sandbox/agent_client.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#include <cassert>
#include <thread>

#include "hypervisor/sandbox/agent_exec.h"
#include "hypervisor/sandbox/agent_wire.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/sandbox/vsock_port.h"

namespace spore {

namespace {

constexpr size_t kOwnEntropyBytes = 64;
constexpr uint16_t kSetClockProtocol = 2;  // schema/agent.fbs
constexpr uint16_t kLimitsProtocol = 3;
constexpr uint16_t kGrowProtocol = 4;
// How far behind a clone's clock may be: rare, or a busy host would have an exchange more to do.
constexpr std::chrono::milliseconds kClockErrorMax{250};
constexpr int kClockTries = 3;

uint64_t wall_clock_ns() {
    timespec now = {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

flatbuffers::Offset<wire::Network> encode(flatbuffers::FlatBufferBuilder& buffer,
                                          const AgentNetwork& network) {
    const auto mac = network.mac.empty() ? 0 : buffer.CreateVector(network.mac);
    const auto address = buffer.CreateString(network.address);
    const auto gateway = buffer.CreateString(network.gateway);
    const auto dns = buffer.CreateVectorOfStrings(network.dns);
    return wire::CreateNetwork(buffer, mac, address, network.prefix_bits, gateway, dns);
}

// An older one would not know what it is asked.
Status knows(const AgentInfo& agent, const std::string& what, uint16_t protocol) {
    if (agent.protocol >= protocol)
        return {};
    return fail(Code::version_mismatch, "agent " + agent.version + ": speaks protocol version " +
                                            std::to_string(agent.protocol) + ", " + what +
                                            " needs version " + std::to_string(protocol) +
                                            ": make the template anew");
}

Status knows_limits(const AgentInfo& agent) {
    return knows(agent, "a limit", kLimitsProtocol);
}

}  // namespace

AgentClient::AgentClient(std::unique_ptr<Wire> wire) : wire_(std::move(wire)) {}
AgentClient::AgentClient(AgentClient&&) noexcept = default;
AgentClient& AgentClient::operator=(AgentClient&&) noexcept = default;
AgentClient::~AgentClient() = default;

Result<AgentClient> AgentClient::connect(const std::filesystem::path& socket, uint32_t port,
                                         Deadline deadline) {
    auto stream = connect_vsock(socket, port, deadline);
    if (!stream)
        return std::unexpected(std::move(stream).error().within("agent"));
    auto client = TRY(over(std::move(stream->socket), deadline));
    client.wire_->host_port = stream->host_port;
    return client;
}

Result<AgentClient> AgentClient::attach(const std::filesystem::path& socket, uint32_t port,
                                        const AgentCarried& carried) {
    return attach(TRY(connect_unix(socket.parent_path(), socket.filename().string(), SOCK_STREAM)),
                  port, carried);
}

Result<AgentClient> AgentClient::attach(UniqueFd socket, uint32_t port,
                                        const AgentCarried& carried) {
    if (carried.protocol < kAgentProtocolMin || carried.protocol > kAgentProtocolMax)
        return fail(Code::version_mismatch,
                    "agent: the connection carried speaks protocol version " +
                        std::to_string(carried.protocol) + ", this Spore speaks " +
                        std::to_string(kAgentProtocolMin) + " to " +
                        std::to_string(kAgentProtocolMax));
    auto wire = std::make_unique<Wire>(std::move(socket));
    // One write with the first frame: spore-vmm then finds both at once.
    wire->take_over(carried, "ATTACH " + std::to_string(port) + "\n");
    return AgentClient(std::move(wire));
}

Result<AgentClient> AgentClient::over(UniqueFd socket, Deadline deadline) {
    auto wire = std::make_unique<Wire>(std::move(socket));
    TRY(wire->greet(deadline));
    return AgentClient(std::move(wire));
}

const AgentInfo& AgentClient::info() const {
    return wire_->info;
}

bool AgentClient::takes_limits() const {
    return wire_->info.protocol >= kLimitsProtocol;
}

bool AgentClient::broken() const {
    return wire_->broken();
}

Status AgentClient::identify(const AgentIdentity& identity, Deadline deadline) {
    TRY(send_identity(identity));
    return confirm_identity(deadline);
}

Status AgentClient::send_identity(const AgentIdentity& identity) {
    if (identity.limits)
        TRY(knows_limits(wire_->info));
    std::vector<std::byte> entropy = identity.entropy;
    if (entropy.empty()) {
        entropy.resize(kOwnEntropyBytes);
        if (::getrandom(entropy.data(), entropy.size(), 0) != static_cast<ssize_t>(entropy.size()))
            return fail_errno("getrandom");
    }
    auto& buffer = wire_->buffer();
    const auto hostname = buffer.CreateString(identity.hostname);
    const auto machine_id = buffer.CreateString(identity.machine_id);
    const auto bytes =
        buffer.CreateVector(reinterpret_cast<const uint8_t*>(entropy.data()), entropy.size());
    flatbuffers::Offset<wire::Network> network;
    if (identity.network)
        network = encode(buffer, *identity.network);
    const auto environment = buffer.CreateVectorOfStrings(assignments_of(identity.environment));
    const uint64_t now = identity.wall_clock_ns != 0 ? identity.wall_clock_ns : wall_clock_ns();
    const uint32_t stream = wire_->open_stream();
    TRY(wire_->send(stream, wire::CreateIdentity(buffer, hostname, machine_id, bytes, now, network,
                                                 environment)));
    wire_->identity_stream = stream;
    if (identity.limits) {
        wire_->limits_stream = wire_->open_stream();
        TRY(wire_->send(wire_->limits_stream,
                        wire::CreateSetLimits(buffer, identity.limits->processes,
                                              identity.limits->memory_bytes)));
    }
    // A time of the caller's own is not put right.
    wire_->identity_sent = identity.wall_clock_ns == 0 ? Deadline::clock::now() : Deadline::max();
    return wire_->write();
}

Status AgentClient::confirm_identity(Deadline deadline) {
    TRY(wire_->usable());
    assert(wire_->identity_stream != 0);
    TRY(wire_->answer(std::exchange(wire_->identity_stream, 0), deadline));
    wire_->info.sealed = false;
    if (wire_->limits_stream != 0)
        TRY(wire_->answer(std::exchange(wire_->limits_stream, 0), deadline));
    // The time in a message that waited for a busy host is of when it was sent.
    auto sent = wire_->identity_sent;
    for (int tries = 0;
         tries < kClockTries && wire_->info.protocol >= kSetClockProtocol &&
         Deadline::clock::now() > sent && Deadline::clock::now() - sent > kClockErrorMax;
         tries++) {
        sent = Deadline::clock::now();
        TRY(wire_->ask(wire::CreateSetClock(wire_->buffer(), wall_clock_ns()), deadline));
    }
    return {};
}

Result<ExecResult> AgentClient::exec(const ExecRequest& request, const ExecStreams& streams,
                                     Deadline deadline) {
    WireChannel channel(*wire_);
    return ExecStream(channel, streams, deadline).run(request);
}

Status AgentClient::prepare_snapshot(Deadline deadline) {
    wire_->info.sealed = true;
    TRY(wire_->ask(wire::CreatePrepareSnapshot(wire_->buffer()), deadline));
    return {};
}

AgentCarried AgentClient::carry() const {
    return {wire_->info.protocol, wire_->info.version, wire_->last_stream()};
}

uint32_t AgentClient::host_port() const {
    return wire_->host_port;
}

Status AgentClient::grow_root(Deadline deadline, uint64_t disk_bytes) {
    if (disk_bytes != 0)
        TRY(knows(wire_->info, "a larger disk", kGrowProtocol));
    for (;;) {
        auto grown = wire_->ask(wire::CreateGrowRoot(wire_->buffer(), disk_bytes), deadline);
        if (grown)
            return {};
        // The guest's kernel hears of it by an interrupt, and nobody tells the agent when.
        constexpr std::chrono::milliseconds kPause{2};
        if (disk_bytes == 0 || grown.error().code != Code::unavailable || !wire_->usable() ||
            Deadline::clock::now() + kPause > deadline)
            return std::unexpected(std::move(grown).error());
        std::this_thread::sleep_for(kPause);
    }
}

Status AgentClient::set_limits(const AgentLimits& limits, Deadline deadline) {
    TRY(knows_limits(wire_->info));
    TRY(wire_->ask(wire::CreateSetLimits(wire_->buffer(), limits.processes, limits.memory_bytes),
                   deadline));
    return {};
}

Result<AgentUsage> AgentClient::usage(Deadline deadline) {
    TRY(knows_limits(wire_->info));
    const auto* frame = TRY(wire_->ask(wire::CreateGetUsage(wire_->buffer()), deadline));
    const auto* usage = frame->body_as_Usage();
    if (usage == nullptr)
        return fail(Code::corrupt, "agent: answered something else than its usage");
    return AgentUsage{.processes = usage->processes(),
                      .processes_max = usage->processes_max(),
                      .memory_bytes = usage->memory_bytes(),
                      .memory_bytes_max = usage->memory_bytes_max(),
                      .root_bytes = usage->root_bytes(),
                      .root_bytes_used = usage->root_bytes_used(),
                      .open_files = usage->open_files(),
                      .open_files_max = usage->open_files_max(),
                      .kept_processes = usage->kept_processes(),
                      .kept_processes_max = usage->kept_processes_max(),
                      .output_bytes = usage->output_bytes(),
                      .output_bytes_reserved = usage->output_bytes_reserved(),
                      .output_bytes_max = usage->output_bytes_max()};
}

Status AgentClient::power_off(Deadline deadline) {
    TRY(wire_->ask(wire::CreatePowerOff(wire_->buffer()), deadline));
    return {};
}

Status AgentClient::ping(Deadline deadline) {
    TRY(wire_->ask(wire::CreatePing(wire_->buffer()), deadline));
    return {};
}

}  // namespace spore
