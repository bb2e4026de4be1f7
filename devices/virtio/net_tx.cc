// From the guest to the host. UNTRUSTED: headers and chains. Fuzz target: fuzz-net.
#include "devices/virtio/net.h"

namespace spore {

void VirtioNet::process_tx() {
    if (tx_rate_.waiting())
        return;  // its end comes back to this
    Queue& queue = queues()[kTxQueue];
    queue.disable_kicks();
    // One queue's worth at a time: a guest that fills as fast as this empties must not keep the
    // loop from everything else.
    for (unsigned budget = queue.size_max(); budget > 0 && backend_->can_send(); budget--) {
        auto chain = queue.pop();
        if (!chain) {
            device_error(chain.error(), kTxQueue);
            return;
        }
        if (!*chain) {
            if (!queue.enable_kicks())
                return;
            queue.disable_kicks();
            continue;
        }
        if (!transmit(**chain)) {
            queue.unpop(std::move(**chain));
            return;
        }
    }
    if (!backend_->can_send()) {
        tx_left_ = true;  // its next completion comes back to this, by flush()
    } else if (!tx_again_.in_flight()) {
        begin_request();
        loop_.timeout(tx_again_, std::chrono::nanoseconds(0));
    }
}

// False: the packet may not go yet.
bool VirtioNet::transmit(DescriptorChain& chain) {
    NetSend send;
    copy_from(chain.readable(), 0, std::as_writable_bytes(std::span(&send.header, 1)));
    if (malformed(chain, send.header) != nullptr) {
        counters_.guest_errors++;
        sent(std::move(chain), 0, false);
        return true;
    }
    send.frame_bytes = chain.readable_bytes() - sizeof(NetHeader);
    send.header.buffers = 0;
    if (!link_up_) {
        sent(std::move(chain), send.frame_bytes, false);
        return true;
    }
    if (!tx_rate_.admit(send.frame_bytes, packets_of(send.header, send.frame_bytes)))
        return false;
    send.chain = std::move(chain);
    backend_->send(std::move(send));
    return true;
}

// What is wrong with a packet, or null. `header` is the host's copy.
const char* VirtioNet::malformed(const DescriptorChain& chain, const NetHeader& header) const {
    if (chain.readable_bytes() < sizeof(NetHeader) + ETH_HLEN)
        return "shorter than its headers";
    size_t frame = chain.readable_bytes() - sizeof(NetHeader);
    if (frame > limits::kNetFrameBytesMax)
        return "longer than a frame";
    if ((header.flags & ~kNetNeedsCsum) != 0)
        return "unknown flags";
    if ((header.flags & kNetNeedsCsum) != 0) {
        if (!has_feature(kNetCsum))
            return "checksum offload was not negotiated";
        // The two bytes of the checksum lie within the frame.
        if (size_t{header.csum_start} + header.csum_offset + 2 > frame)
            return "checksum outside the frame";
    }
    if (header.header_bytes > frame)
        return "headers longer than the frame";
    if (header.gso_type == kNetGsoNone)
        return nullptr;
    bool offered = (header.gso_type == kNetGsoTcp4 && has_feature(kNetHostTso4)) ||
                   (header.gso_type == kNetGsoTcp6 && has_feature(kNetHostTso6));
    if (!offered)
        return "segmentation offload was not negotiated";
    // virtio 1.2 §5.1.6.2.1: segmentation needs the checksum, and a size to cut by.
    if ((header.flags & kNetNeedsCsum) == 0 || header.gso_size == 0)
        return "segmentation without checksum or size";
    return nullptr;
}

void VirtioNet::sent(DescriptorChain chain, size_t frame_bytes, bool ok) {
    if (ok) {
        net_counters_.tx_frames++;
        net_counters_.tx_bytes += frame_bytes;
    } else {
        net_counters_.tx_dropped++;
    }
    queues()[kTxQueue].push(std::move(chain), 0);
    schedule_flush();
}

}  // namespace spore
