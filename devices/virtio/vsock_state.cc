// The vsock device's state, out of a quiesced device and into a new one. UNTRUSTED: restore() takes
// what a file says and checks every number of it here. Fuzz target: fuzz-vsock.

#include <algorithm>
#include <cassert>

#include "devices/virtio/vsock.h"

namespace spore {

namespace {

constexpr uint32_t kAnyPort = 0xffff'ffff;  // VMADDR_PORT_ANY: nobody's address

std::string text(VsockPorts ports) {
    return "from host port " + std::to_string(ports.host) + " to guest port " +
           std::to_string(ports.guest);
}

std::unexpected<Error> corrupt_vsock(const std::string& what, uint64_t value) {
    return fail(Code::corrupt,
                "vsock state: " + what + " " + std::to_string(value) + " is out of range");
}

bool is_host_port(uint32_t port) {
    return port >= VsockDevice::kHostPortFirst && port <= VsockDevice::kHostPortLast;
}

// Only what save() writes: a connection of the host's whose every byte has been forwarded. The
// guest's own numbers towards us may be anything (VsockCredit::room).
Status check(const VsockCarriedState& carried) {
    const VsockCredit& credit = carried.credit;
    if (!is_host_port(carried.ports.host))
        return corrupt_vsock("carried connection's host port", carried.ports.host);
    if (carried.ports.guest == kAnyPort)
        return corrupt_vsock("carried connection's guest port", carried.ports.guest);
    if (!credit.announced)
        return fail(Code::corrupt, "vsock state: the carried connection was never announced");
    if (credit.received != credit.forwarded)
        return corrupt_vsock("carried connection's count of bytes not forwarded",
                             credit.received - credit.forwarded);
    if (credit.forwarded - credit.published > limits::kVsockBufferBytes)
        return corrupt_vsock("carried connection's count of bytes not published",
                             credit.forwarded - credit.published);
    return {};
}

}  // namespace

Result<VsockState> VsockDevice::save(std::optional<VsockPorts> carry) const {
    VsockState state{guest_cid_, next_host_port_, {}, {}};
    const Connection* carried = carry ? nullptr : detached();
    if (carry) {
        auto found = connections_.find(carry->key());
        if (found != connections_.end())
            carried = found->second.get();
        bool stands = carried != nullptr && is_host_port(carry->host) &&
                      (carried->phase == Phase::established || carried->phase == Phase::detached);
        if (!stands)
            return fail(Code::not_found, "vsock: there is no connection " + text(*carry));
    }
    // Bytes that wait are the host program's, and it will not be there.
    bool whole = carried != nullptr && carried->buffer.empty() && carried->credit.announced &&
                 (carried->guest_shut | carried->host_shut) == 0;
    if (carry && !whole)
        return fail(Code::unavailable,
                    "vsock: the connection " + text(*carry) +
                        " is half closed or has bytes on their way to the host program");
    if (whole)
        state.carried = {carried->ports, carried->credit,
                         (carried->pending & Connection::kCreditUpdate) != 0};
    for (const auto& [key, connection] : connections_) {
        bool unheard_of = connection->phase == Phase::requested &&
                          (connection->pending & Connection::kRequest) != 0;
        bool is_carried = whole && connection.get() == carried;
        if (!is_carried && !unheard_of && connection->phase != Phase::flushing)
            state.ended.push_back(connection->ports);
    }
    for (const VsockHeader& reset : resets_) {  // to another type than ours: nobody waits for it
        VsockPorts ports{reset.src_port, reset.dst_port};
        if (reset.type == VIRTIO_VSOCK_TYPE_STREAM && !(whole && ports == carried->ports))
            state.ended.push_back(ports);
    }
    std::ranges::sort(state.ended, {}, &VsockPorts::key);
    state.ended.erase(std::ranges::unique(state.ended).begin(), state.ended.end());
    if (state.ended.size() > limits::kVsockEndedMax)
        return fail(Code::resource_exhausted, "vsock: " + std::to_string(state.ended.size()) +
                                                  " connections to be reset, a snapshot holds " +
                                                  std::to_string(limits::kVsockEndedMax));
    return state;
}

Status VsockDevice::restore(const VsockState& state) {
    assert(connections_.empty() && resets_.empty());
    if (!is_guest(state.guest_cid))
        return corrupt_vsock("guest CID", static_cast<uint64_t>(state.guest_cid));
    if (!is_host_port(state.next_host_port))
        return corrupt_vsock("next host port", state.next_host_port);
    if (state.carried)
        TRY(check(*state.carried));
    if (state.ended.size() > limits::kVsockEndedMax)
        return corrupt_vsock("number of ended connections", state.ended.size());
    for (size_t index = 0; index < state.ended.size(); index++) {
        VsockPorts ports = state.ended[index];
        if (index > 0 && ports.key() <= state.ended[index - 1].key())
            return corrupt_vsock("order of ended connections, host port", ports.host);
        if (state.carried && ports == state.carried->ports)
            return corrupt_vsock("ended connection that is carried, host port", ports.host);
    }
    guest_cid_ = state.guest_cid;
    next_host_port_ = state.next_host_port;
    for (VsockPorts ports : state.ended) {
        VsockHeader reset = {};
        reset.src_cid = static_cast<uint64_t>(ContextId::host);
        reset.dst_cid = static_cast<uint64_t>(guest_cid_);
        reset.src_port = ports.host;
        reset.dst_port = ports.guest;
        reset.type = VIRTIO_VSOCK_TYPE_STREAM;
        reset.op = VIRTIO_VSOCK_OP_RST;
        resets_.push_back(reset);
    }
    if (state.carried) {
        auto connection = std::make_unique<Connection>();
        connection->phase = Phase::detached;
        connection->ports = state.carried->ports;
        connection->credit = state.carried->credit;
        connection->pending = state.carried->credit_asked ? Connection::kCreditUpdate : 0;
        insert(std::move(connection));
    }
    return {};
}

}  // namespace spore
