// From the host to the guest. UNTRUSTED: the guest's buffers. Fuzz target: fuzz-net.
#include <algorithm>

#include "devices/virtio/net.h"

namespace spore {

bool VirtioNet::receive(const NetHeader& header, std::span<const std::byte> frame) {
    if (!active() || failed() || rx_rate_.waiting())
        return false;
    switch (gather(sizeof(NetHeader) + frame.size())) {
        case Room::not_yet:
            return false;
        case Room::never:
            if (failed())
                return false;
            receive_dropped();
            return true;
        case Room::enough:
            break;
    }
    if (!rx_rate_.admit(frame.size(), packets_of(header, frame.size()))) {
        put_back();
        return false;
    }
    deliver(header, frame);
    return true;
}

// Pops chains into gathered_ until they hold `bytes`; if they do not, they are put back.
VirtioNet::Room VirtioNet::gather(size_t bytes) {
    Queue& queue = queues()[kRxQueue];
    size_t room = 0;
    while (room < bytes) {
        auto chain = queue.pop();
        if (!chain) {
            put_back();
            device_error(chain.error(), kRxQueue);
            return Room::never;
        }
        if (!*chain) {
            if (queue.enable_kicks()) {
                queue.disable_kicks();
                continue;
            }
            // All of the queue, and still too little: waiting would be for ever.
            bool all = gathered_.size() >= queue.state().size;
            put_back();
            return all ? Room::never : Room::not_yet;
        }
        gathered_.push_back(std::move(**chain));
        room += gathered_.back().writable_bytes();
        // virtio 1.2 §5.1.6.3.1: every buffer has room for the header at least.
        if (gathered_.back().writable_bytes() < sizeof(NetHeader)) {
            size_t size = gathered_.back().writable_bytes();
            put_back();
            device_error(
                {Code::corrupt, "receive buffer of " + std::to_string(size) + " bytes, at least " +
                                    std::to_string(sizeof(NetHeader))},
                kRxQueue);
            return Room::never;
        }
        if (!has_feature(kNetMergeableBuffers) && room < bytes) {
            put_back();
            return Room::never;
        }
    }
    return Room::enough;
}

void VirtioNet::put_back() {
    while (!gathered_.empty()) {
        queues()[kRxQueue].unpop(std::move(gathered_.back()));
        gathered_.pop_back();
    }
}

void VirtioNet::deliver(NetHeader header, std::span<const std::byte> frame) {
    Queue& queue = queues()[kRxQueue];
    header.buffers = static_cast<uint16_t>(gathered_.size());
    net_counters_.rx_frames++;
    net_counters_.rx_bytes += frame.size();
    size_t used = sizeof(header);
    (void)gathered_.front().write(header);  // gather() made sure that it fits
    for (DescriptorChain& chain : gathered_) {
        size_t copied = copy_to(chain.writable(), used,
                                frame.first(std::min(frame.size(), chain.writable_bytes() - used)));
        frame = frame.subspan(copied);
        queue.stage(std::move(chain), static_cast<uint32_t>(used + copied));
        used = 0;
    }
    gathered_.clear();
    queue.publish();
    queue.disable_kicks();
    schedule_flush();
}

}  // namespace spore
