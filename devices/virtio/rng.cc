#include "devices/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>

namespace spore {

namespace {
// Few: a request for entropy is alone as a rule, and a batch is then at most 512 KiB.
constexpr uint16_t kRngQueueSizes[] = {8};
}  // namespace

VirtioRng::VirtioRng(const GuestMemory& memory, EventLoop& loop)
    : VirtioDevice(VIRTIO_ID_RNG, memory, loop, kRngQueueSizes), again_([this](int32_t) {
          end_request();
          kick();
      }) {}

void VirtioRng::read_config(uint32_t, std::span<std::byte> bytes) const {
    std::fill(bytes.begin(), bytes.end(), std::byte{0});  // virtio 1.2 §5.4.4: there is none
}

void VirtioRng::process() {
    if (again_.in_flight())
        return;
    Queue& queue = queues()[0];
    queue.disable_kicks();
    bool more = process_batch();
    notify_used(0);
    if (failed())
        return;
    if (!more && !queue.enable_kicks())
        return;
    begin_request();
    loop_.timeout(again_, std::chrono::nanoseconds(0));
}

void VirtioRng::stop_io() {
    if (again_.in_flight())
        loop_.cancel(again_);
}

// Serves one queue's worth of requests. Whether there may be more.
bool VirtioRng::process_batch() {
    Queue& queue = queues()[0];
    for (uint16_t count = 0; count < queue.size_max(); count++) {
        auto popped = queue.pop();
        if (!popped) {
            device_error(popped.error(), 0);
            return false;
        }
        if (!*popped)
            return false;
        uint32_t written = fill(**popped);
        queue.push(std::move(**popped), written);
    }
    return true;
}

uint32_t VirtioRng::fill(const DescriptorChain& chain) {
    if (chain.writable().empty())
        counters_.guest_errors++;  // a request for nothing gets it
    size_t filled = 0;
    for (const iovec& buffer : chain.writable()) {
        size_t size = std::min(buffer.iov_len, kRequestBytesMax - filled);
        ssize_t got = size == 0 ? 0 : ::getrandom(buffer.iov_base, size, GRND_NONBLOCK);
        if (got < 0) {  // before the host has entropy itself
            counters_.host_errors++;
            break;
        }
        filled += static_cast<size_t>(got);
        if (static_cast<size_t>(got) < buffer.iov_len)
            break;  // what is written must be the first bytes of the chain, without a gap
    }
    return static_cast<uint32_t>(filled);
}

}  // namespace spore
