#include "hypervisor/sandbox/agent_connection.h"

#include <sys/eventfd.h>

#include <cassert>
#include <csignal>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/sandbox/agent_hub.h"

namespace spore {

namespace {

// Requests that wait for the socket: above it senders wait too. Data waits until nothing does, and
// is not copied to be kept: its sender waits with it.
constexpr size_t kUnsentBytesMax = 1 * limits::kMiB;
constexpr size_t kDataFrameBytes = 16 * limits::kKiB;
constexpr uint16_t kCancelProtocol = 3;  // schema/agent.fbs

Error cancelled() {
    return {Code::unavailable, "agent: the request was cancelled"};
}

thread_local std::stop_token current_stop;

}  // namespace

CancelScope::CancelScope(std::stop_token stop)
    : stop_(std::move(stop)), outer_(std::exchange(current_stop, stop_)) {}

CancelScope::~CancelScope() {
    current_stop = outer_;
}

AgentStream::AgentStream(std::shared_ptr<Hub> hub, std::shared_ptr<Slot> slot)
    : hub_(std::move(hub)), slot_(std::move(slot)) {
    if (!current_stop.stop_possible())
        return;
    stop_ = std::make_unique<std::stop_callback<std::function<void()>>>(
        current_stop, [hub = hub_, slot = slot_] {
            std::unique_lock lock(hub->mutex);
            slot->cancelled = true;
            hub->notify(slot.get());
        });
}

AgentStream::~AgentStream() {
    if (!slot_)
        return;
    stop_.reset();  // waits for a cancellation under way, which takes the mutex
    std::unique_lock lock(hub_->mutex);
    const bool open = slot_->request != wire::Body::NONE && !slot_->ended && !hub_->broken;
    if (open) {
        slot_->cancelled = false;  // or nothing more would be sent
        FrameBuilder builder;
        auto send = [&](auto body) {
            (void)hub_->add(*slot_, builder.finish(slot_->id, body));
            builder.reset();
        };
        if (hub_->info.protocol >= kCancelProtocol) {
            send(wire::CreateCancel(builder.buffer()));
        } else if (slot_->request == wire::Body::Exec) {
            // What is left of its output is passed over here, but must come out there.
            send(wire::CreateSignal(builder.buffer(), SIGKILL));
            send(wire::CreateCredit(builder.buffer(), 1, UINT32_MAX));
            send(wire::CreateCredit(builder.buffer(), 2, UINT32_MAX));
        }
    }
    hub_->slots.erase(slot_->id);
}

Status AgentStream::send_frame(wire::Body type, flatbuffers::Offset<void> body) {
    const auto frame = builder_.finish(slot_->id, type, body);
    std::unique_lock lock(hub_->mutex);
    Status sent = [&]() -> Status {
        if (agent_protocol_of(type) > hub_->info.protocol) {
            return fail(Code::host_unsupported, std::string(wire::EnumNameBody(type)) +
                                                    ": needs protocol version " +
                                                    std::to_string(agent_protocol_of(type)) +
                                                    ", and this sandbox's agent speaks " +
                                                    std::to_string(hub_->info.protocol));
        }
        const bool data = frame.size() >= kDataFrameBytes;
        const size_t unsent_max = data ? 1 : kUnsentBytesMax;
        TRY(hub_->wait(lock, *slot_, deadline_, {}, [this, unsent_max] {
            return hub_->broken || slot_->cancelled || hub_->unsent() < unsent_max;
        }));
        TRY(data ? hub_->lend(*slot_, frame) : hub_->add(*slot_, frame));
        if (slot_->request == wire::Body::NONE)
            slot_->request = type;
        const auto mine = [this] { return hub_->lender == slot_.get(); };
        Status waited =
            hub_->wait(lock, *slot_, deadline_, {}, [&] { return slot_->cancelled || !mine(); });
        if (mine())
            hub_->take_back();  // half of a frame would be the connection's end
        return waited;
    }();
    lock.unlock();
    builder_.reset();
    return sent;
}

Result<const wire::Frame*> AgentStream::next() {
    std::unique_lock lock(hub_->mutex);
    if (slot_->cancelled)
        return std::unexpected(cancelled());
    if (slot_->frames.empty()) {
        if (!slot_->ended && hub_->broken)
            return std::unexpected(*hub_->broken);
        return nullptr;
    }
    hub_->recycle(std::move(current_));
    current_ = std::move(slot_->frames.front());
    slot_->frames.pop_front();
    const auto* frame = wire::GetSizePrefixedFrame(current_.data());
    slot_->queued -= cost_of(*frame, current_);
    ended_ = slot_->ended && slot_->frames.empty();
    lock.unlock();
    // Verified when it came; a block of new[] is as aligned as the reader's.
    return frame;
}

Status AgentStream::wait(Deadline deadline, std::span<pollfd> others) {
    std::unique_lock lock(hub_->mutex);
    return hub_->wait(lock, *slot_, deadline, others, [this] {
        return slot_->cancelled || slot_->ended || !slot_->frames.empty();
    });
}

Result<const wire::Frame*> AgentStream::receive(Deadline deadline) {
    while (!ended_) {
        const auto* frame = TRY(next());
        if (frame == nullptr) {
            TRY(wait(deadline, {}));
            continue;
        }
        if (const auto* error = frame->body_as_Error())
            return std::unexpected(error_of(*error));
        return frame;
    }
    return nullptr;
}

Status AgentStream::receive_done(Deadline deadline) {
    const auto* frame = TRY(receive(deadline));
    if (frame != nullptr && frame->body_as_Done() != nullptr)
        return {};
    const std::string got = frame == nullptr ? "nothing" : wire::EnumNameBody(frame->body_type());
    fail_connection("agent: answered with " + got + " where Done was due");
    return fail(Code::corrupt, "agent: answered with " + got + " where Done was due");
}

Status AgentStream::consumed(uint8_t fd, size_t bytes) {
    assert(fd == 1 || fd == 2);
    used_[fd] += bytes;
    std::unique_lock lock(hub_->mutex);
    const size_t window = slot_->window;
    if (used_[fd] < window / 2 || slot_->ended)
        return {};
    FrameBuilder builder;
    const auto granted = static_cast<uint32_t>(std::min<size_t>(used_[fd], UINT32_MAX));
    TRY(hub_->add(*slot_,
                  builder.finish(slot_->id, wire::CreateCredit(builder.buffer(), fd, granted))));
    used_[fd] -= granted;
    return {};
}

void AgentStream::cancel() {
    std::unique_lock lock(hub_->mutex);
    slot_->cancelled = true;
    hub_->notify(slot_.get());
}

bool AgentStream::full() const {
    std::unique_lock lock(hub_->mutex);
    return hub_->unsent() >= limits::kFrameChunkBytes;
}

uint16_t AgentStream::protocol() const {
    return hub_->info.protocol;
}

void AgentStream::fail_connection(std::string why) {
    std::unique_lock lock(hub_->mutex);
    hub_->end({Code::corrupt, std::move(why)});
}

Result<std::shared_ptr<AgentConnection>> AgentConnection::over(AgentClient client) {
    TRY(client.wire_->usable());
    if (client.wire_->identity_stream != 0)
        return fail(Code::invalid_argument, "agent: its identity is not confirmed yet");
    auto hub = std::make_shared<AgentStream::Hub>();
    hub->wake = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!hub->wake)
        return fail_errno("eventfd");
    client.wire_->release(hub->socket, hub->reader, hub->out);
    hub->last_stream = client.wire_->last_stream();
    hub->info = client.wire_->info;
    return std::shared_ptr<AgentConnection>(new AgentConnection(std::move(hub)));
}

Result<std::shared_ptr<AgentConnection>> AgentConnection::connect(
    const std::filesystem::path& socket, uint32_t port, Deadline deadline) {
    return over(TRY(AgentClient::connect(socket, port, deadline)));
}

AgentConnection::AgentConnection(std::shared_ptr<AgentStream::Hub> hub) : hub_(std::move(hub)) {}

AgentConnection::~AgentConnection() {
    close();
}

void AgentConnection::close() {
    std::unique_lock lock(hub_->mutex);
    hub_->end({Code::unavailable, "agent: the connection was closed here"});
}

const AgentInfo& AgentConnection::info() const {
    return hub_->info;
}

bool AgentConnection::broken() const {
    std::unique_lock lock(hub_->mutex);
    return hub_->broken.has_value();
}

AgentStream AgentConnection::open(size_t window) {
    auto slot = std::make_shared<AgentStream::Slot>();
    std::unique_lock lock(hub_->mutex);
    // 0 is no stream, and one that has run for that long may meet one that is open.
    do {
        slot->id = ++hub_->last_stream;
    } while (slot->id == 0 || hub_->slots.contains(slot->id));
    slot->window = window;
    hub_->slots.emplace(slot->id, slot);
    lock.unlock();
    return {hub_, std::move(slot)};
}

Result<ExecResult> AgentConnection::exec(const ExecRequest& request, const ExecStreams& streams,
                                         Deadline deadline) {
    AgentStream stream = open(limits::kOutputCreditBytes);
    stream.set_deadline(deadline);
    return ExecStream(stream, streams, deadline).run(request);
}

Status AgentConnection::set_environment(const std::vector<std::pair<std::string, std::string>>& set,
                                        const std::vector<std::string>& unset, Deadline deadline) {
    TRY(check_names(set));
    AgentStream stream = open();
    auto& buffer = stream.buffer();
    const auto assignments = buffer.CreateVectorOfStrings(assignments_of(set));
    const auto names = buffer.CreateVectorOfStrings(unset);
    TRY(stream.send(wire::CreateSetEnvironment(buffer, assignments, names)));
    return stream.receive_done(deadline);
}

Status AgentConnection::ping(Deadline deadline) {
    AgentStream stream = open();
    TRY(stream.send(wire::CreatePing(stream.buffer())));
    TRY(stream.receive(deadline));
    return {};
}

}  // namespace spore
