// The network device with a hostile driver and a hostile peer: rings, headers and the socket's
// stream are the fuzzer's bytes.
#include <fcntl.h>
#include <sys/socket.h>

#include <cstdlib>

#include "devices/virtio/net.h"
#include "tests/unit/support/fake_driver.h"

namespace {

using namespace spore;

constexpr uint16_t kQueueSize = 8;
constexpr uint64_t kMemoryBytes = 256 * limits::kKiB;
constexpr uint64_t kRxBase = 0;
constexpr uint64_t kTxBase = 0x10000;
constexpr uint64_t kAvailable = 16 * kQueueSize;  // behind the descriptors

// Takes what it needs from the front of the input; zeroes when that is used up.
class Input {
  public:
    Input(const uint8_t* data, size_t size) : bytes_(std::as_bytes(std::span(data, size))) {}
    template <typename T>
    T take() {
        T value = {};
        auto bytes = take(sizeof(T));
        std::memcpy(&value, bytes.data(), bytes.size());
        return value;
    }
    std::span<const std::byte> take(size_t size) {
        auto front = bytes_.first(std::min(size, bytes_.size()));
        bytes_ = bytes_.subspan(front.size());
        return front;
    }
    bool empty() const { return bytes_.empty(); }

  private:
    std::span<const std::byte> bytes_;
};

QueueState queue_at(uint64_t base) {
    return {.size = kQueueSize,
            .ready = true,
            .descriptor_table = base,
            .available_ring = base + kAvailable,
            .used_ring = base + 0x1000};
}

void settle(EventLoop& loop, const std::function<bool()>& done) {
    if (!loop.run_until(done, std::chrono::seconds(10)))
        std::abort();  // it hangs
}

// One turn: some of memory written (within the first descriptors and the avail ring mostly), a
// piece of stream, a kick.
void turn(Input& input, const GuestMemory& memory, VirtioNet& device, EventLoop& loop, int peer) {
    uint64_t base = input.take<uint8_t>() % 2 != 0 ? kTxBase : kRxBase;
    uint16_t offset = input.take<uint16_t>() % 0x800;
    (void)memory.write_bytes(GuestAddress(base + offset), input.take(input.take<uint8_t>()));
    if (input.take<uint8_t>() % 2 != 0)  // what is available is of some use more often then
        (void)memory.write(GuestAddress(base + kAvailable + 2),
                           static_cast<uint16_t>(input.take<uint8_t>() % (2 * kQueueSize)));
    auto stream = input.take(input.take<uint8_t>());
    (void)!::send(peer, stream.data(), stream.size(), MSG_NOSIGNAL);
    device.kick();
    for (int round = 0; round < 3; round++) {  // a posted task wakes the loop: it never waits
        bool came = false;
        loop.post([&] { came = true; });
        settle(loop, [&] { return came; });
    }
    char drained[4096];
    while (::recv(peer, drained, sizeof(drained), 0) > 0) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static auto loop = *EventLoop::create({.entries = 64, .files = 8});
    GuestMemory memory = test::make_memory(kMemoryBytes);
    Input input(data, size);
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        std::abort();
    UniqueFd peer(ends[1]);
    if (::fcntl(peer.get(), F_SETFL, O_NONBLOCK) != 0)
        std::abort();
    NetConfig config;
    config.mac = {2, 0, 0, 0, 0, 1};
    config.socket_fd = UniqueFd(ends[0]);
    auto device = *VirtioNet::create(std::move(config), memory, *loop);
    test::CountingLine line;
    device->attach(&line);
    uint64_t features = uint64_t{1} << VIRTIO_F_VERSION_1;
    uint8_t choice = input.take<uint8_t>();
    if (choice & 1)
        features |= uint64_t{1} << kNetMergeableBuffers;
    if (choice & 2)
        features |= uint64_t{1} << kFeatureEventIndex;
    bool ready = device->set_features(features) &&
                 device->queues()[0].configure(queue_at(kRxBase), (choice & 2) != 0) &&
                 device->queues()[1].configure(queue_at(kTxBase), (choice & 2) != 0);
    if (!ready)
        std::abort();
    device->activate();
    for (int turns = 0; turns < 16 && !input.empty(); turns++)
        turn(input, memory, *device, *loop, peer.get());
    bool done = false;
    device->reset([&] { done = true; });
    settle(*loop, [&] { return done; });
    return 0;
}
