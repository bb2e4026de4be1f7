// UNTRUSTED BYTES: the frames of a guest, verified by FrameReader (schema/frame.h); what a stream
// may queue is bounded here. Fuzz target: tests/fuzz/fuzz_agent_frame.cc.

#include "hypervisor/sandbox/agent_hub.h"
#include "hypervisor/base/agent_limits.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cassert>

namespace spore {

namespace {

// Blocks of frames that were read are kept for the next ones: as many as a window has of data.
// Given back and asked for again each would be mapped and zeroed anew.
constexpr size_t kSparesMax = 8;
constexpr size_t kSpareBytesMin = 4 * limits::kKiB;
constexpr size_t kSpareBytesMax = limits::kFileChunkBytes + 4 * limits::kKiB;

bool is_last(wire::Body body) {
    switch (body) {
        case wire::Body::HelloReply:
        case wire::Body::Done:
        case wire::Body::Pong:
        case wire::Body::Exited:
        case wire::Body::StartFailed:
        case wire::Body::LogMatch:
        case wire::Body::Error:
            return true;
        default:
            return false;
    }
}

}  // namespace

size_t cost_of(const wire::Frame& frame, std::span<const std::byte> bytes) {
    if (const auto* output = frame.body_as_Output())
        return std::max<size_t>(output->bytes()->size(), 1);
    if (const auto* data = frame.body_as_FileData())
        return std::max<size_t>(view(data->bytes()).size(), 1);
    return bytes.size();
}

void AgentStream::Hub::end(Error why) {
    if (broken)
        return;
    broken = std::move(why);
    ::shutdown(socket.get(), SHUT_RDWR);  // the leader may be in poll with it: closed with the hub
    lent = {};
    lender = nullptr;
    out.clear();
    out_sent = 0;
    notify(nullptr);
}

void AgentStream::Hub::notify(const Slot* slot) {
    for (Waiter* waiter : waiters) {
        if (slot == nullptr || waiter->slot == slot)
            waiter->changed.notify_all();
    }
    look_again();
}

void AgentStream::Hub::recycle(std::vector<std::byte>&& frame) {
    if (frame.capacity() >= kSpareBytesMin && frame.capacity() <= kSpareBytesMax &&
        spares.size() < kSparesMax)
        spares.push_back(std::move(frame));
}

void AgentStream::Hub::look_again() {
    if (leading)
        ::eventfd_write(wake.get(), 1);
}

Status AgentStream::Hub::may_add(const Slot& slot, std::span<const std::byte> frame) const {
    if (broken)
        return std::unexpected(*broken);
    const size_t length = frame.size() - sizeof(uint32_t);
    if (length > limits::kFrameBytesMax) {
        return fail(Code::invalid_argument, "request of " + std::to_string(length) +
                                                " bytes: must be at most " +
                                                std::to_string(limits::kFrameBytesMax));
    }
    if (slot.cancelled)
        return fail(Code::unavailable, "agent: the request was cancelled");
    return {};
}

Status AgentStream::Hub::add(const Slot& slot, std::span<const std::byte> frame) {
    TRY(may_add(slot, frame));
    // Most often the socket takes all of it, and nothing is copied.
    if (unsent() == 0)
        frame = frame.subspan(send(frame));
    out.insert(out.end(), frame.begin(), frame.end());
    if (unsent() > 0)
        look_again();  // for the socket to take more
    return {};
}

Status AgentStream::Hub::lend(const Slot& slot, std::span<const std::byte> frame) {
    TRY(may_add(slot, frame));
    assert(unsent() == 0);
    lent = frame.subspan(send(frame));
    lender = lent.empty() ? nullptr : &slot;
    if (!lent.empty())
        look_again();
    return {};
}

void AgentStream::Hub::take_back() {
    out.insert(out.begin() + static_cast<ptrdiff_t>(out_sent), lent.begin(), lent.end());
    lent = {};
    lender = nullptr;
}

size_t AgentStream::Hub::send(std::span<const std::byte> bytes) {
    size_t sent = 0;
    while (sent < bytes.size()) {
        const ssize_t count = ::send(socket.get(), bytes.data() + sent, bytes.size() - sent,
                                     MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        // A peer that has gone may have said why: that is still to be read.
        if (count < 0)
            break;
        sent += static_cast<size_t>(count);
    }
    return sent;
}

void AgentStream::Hub::write() {
    lent = lent.subspan(send(lent));
    if (!lent.empty())
        return;
    lender = nullptr;
    out_sent += send(std::span(out).subspan(out_sent));
    if (unsent() == 0) {
        out.clear();
        out_sent = 0;
    } else if (out_sent > out.size() / 2) {
        out.erase(out.begin(), out.begin() + static_cast<ptrdiff_t>(out_sent));
        out_sent = 0;
    }
}

// One poll for everybody who waits, and what it brings.
void AgentStream::Hub::lead(std::unique_lock<std::mutex>& lock, Deadline deadline) {
    std::vector<pollfd> all = {
        {socket.get(), static_cast<short>(POLLIN | (unsent() > 0 ? POLLOUT : 0)), 0},
        {wake.get(), POLLIN, 0}};
    std::vector<std::pair<uint64_t, size_t>> places;  // of a waiter by ID: it may go meanwhile
    for (const Waiter* waiter : waiters) {
        if (waiter->others.empty())
            continue;
        places.emplace_back(waiter->id, all.size());
        all.insert(all.end(), waiter->others.begin(), waiter->others.end());
    }
    const int timeout_ms = poll_ms_until(deadline).value_or(0);
    leading = true;
    lock.unlock();
    const int ready = ::poll(all.data(), all.size(), timeout_ms);
    const int error = errno;
    lock.lock();
    leading = false;
    if (broken || (ready < 0 && error == EINTR))
        return;
    if (ready < 0)
        return end({Code::internal, std::string("agent: poll: ") + std::strerror(error)});
    if (all[1].revents != 0) {
        eventfd_t ignored = 0;
        ::eventfd_read(wake.get(), &ignored);
    }
    for (const auto& [id, first] : places) {
        const auto found = std::ranges::find(waiters, id, &Waiter::id);
        if (found == waiters.end())
            continue;
        Waiter& waiter = **found;
        for (size_t i = 0; i < waiter.others.size(); ++i) {
            waiter.others[i].revents = all[first + i].revents;
            waiter.others_ready |= all[first + i].revents != 0;
        }
        if (waiter.others_ready)
            waiter.changed.notify_all();
    }
    if ((all[0].revents & POLLOUT) != 0) {
        write();
        notify(nullptr);  // some may wait for room
    }
    if ((all[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0)
        read();
}

void AgentStream::Hub::read() {
    const auto room = reader.room();
    const ssize_t count = ::recv(socket.get(), room.data(), room.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        return end({Code::unavailable, "agent: the connection has ended"});
    reader.received(static_cast<size_t>(count));
    while (!broken) {
        const auto frame = reader.next();
        if (!frame)
            return end(Error(frame.error()).within("agent"));
        if (*frame == nullptr)
            return;
        deliver(**frame, reader.bytes());
    }
}

void AgentStream::Hub::deliver(const wire::Frame& frame, std::span<const std::byte> bytes) {
    if (frame.stream() == 0) {
        const auto* error = frame.body_as_Error();
        return end(error != nullptr ? error_of(*error)
                                    : Error{Code::corrupt, "agent: stream 0 has no error on it"});
    }
    const auto found = slots.find(frame.stream());
    if (found == slots.end() || found->second->ended)
        return;  // given up here while it was on its way
    Slot& slot = *found->second;
    // Two flows, and frames that cost nothing there; one frame of items may overdraw.
    if (slot.queued > 2 * slot.window + limits::kFrameChunkBytes) {
        return end({Code::corrupt, "agent: sent above " + std::to_string(slot.queued) +
                                       " bytes on a stream that was granted less"});
    }
    slot.ended = is_last(frame.body_type());
    std::vector<std::byte> kept;
    if (bytes.size() >= kSpareBytesMin && !spares.empty()) {
        kept = std::move(spares.back());
        spares.pop_back();
    }
    kept.assign(bytes.begin(), bytes.end());
    slot.frames.push_back(std::move(kept));
    slot.queued += cost_of(frame, bytes);
    notify(&slot);
}

}  // namespace spore
