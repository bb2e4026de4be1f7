// The block device under a hostile driver: requests of any type, framing, sector and length, many
// at a time, over raw, read-only and copy-on-write disks. Each must end, once, with a status, or
// the device must have failed; nothing may stay in flight.

#include <fcntl.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "devices/block/layered_disk.h"
#include "devices/block/raw_disk.h"
#include "devices/virtio/block.h"
#include "tests/unit/support/fake_driver.h"

namespace {

using namespace spore;

constexpr uint64_t kDiskBytes = 64 * limits::kKiB;
constexpr unsigned kRequestsMax = 60;  // of at most 4 descriptors: the queue has 256

void require(bool condition) {
    if (!condition)
        std::abort();
}

class Input {
  public:
    Input(const uint8_t* data, size_t size) : left_(data, size) {}
    bool empty() const { return left_.empty(); }
    // The next T, made up with zeros at the end.
    template <typename T>
    T take() {
        T value = {};
        size_t size = std::min(sizeof(T), left_.size());
        std::memcpy(&value, left_.data(), size);
        left_ = left_.subspan(size);
        return value;
    }

  private:
    std::span<const uint8_t> left_;
};

DiskFile make_file(uint64_t bytes, bool writable) {
    UniqueFd fd(::memfd_create("disk", MFD_CLOEXEC));
    require(fd && ::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
    return {std::move(fd), "memfd", bytes, writable};
}

std::unique_ptr<Disk> make_disk(EventLoop& loop, unsigned kind) {
    if (kind < 2)
        return std::move(*RawDisk::create(loop, make_file(kDiskBytes, kind == 0)));
    LayeredDisk::Parts parts;
    parts.bytes = kDiskBytes;
    parts.base = make_file(kDiskBytes / 2 + 512, false);
    LayerMap map = *LayerMap::create(kDiskBytes);
    map.set(3, 7);
    parts.layers.push_back({make_file(kDiskBytes, false), std::move(map)});
    parts.top = LayeredDisk::Layer{make_file(kDiskBytes, true), *LayerMap::create(kDiskBytes)};
    return std::move(*LayeredDisk::create(loop, std::move(parts)));
}

uint64_t any_sector(Input& input) {
    switch (input.take<uint8_t>() % 4) {
        case 0:
            return input.take<uint64_t>();
        case 1:
            return kDiskBytes / kSectorBytes - input.take<uint8_t>() % 4;
        default:
            return input.take<uint8_t>() % (kDiskBytes / kSectorBytes);
    }
}

uint32_t any_type(Input& input) {
    constexpr uint32_t kTypes[] = {VIRTIO_BLK_T_IN,           VIRTIO_BLK_T_OUT,
                                   VIRTIO_BLK_T_FLUSH,        VIRTIO_BLK_T_DISCARD,
                                   VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_GET_ID};
    uint8_t choice = input.take<uint8_t>();
    return choice < 240 ? kTypes[choice % std::size(kTypes)] : input.take<uint32_t>();
}

uint32_t any_size(Input& input) {
    uint8_t choice = input.take<uint8_t>();
    return choice < 128 ? choice % 16 * 512u : input.take<uint16_t>() % 10'000u;
}

// Makes one request available; says whether it has room for its status.
bool add_request(test::FakeDriver& driver, Input& input) {
    uint8_t shape = input.take<uint8_t>();
    std::vector<test::Buffer> buffers;
    virtio_blk_outhdr header = {any_type(input), 0, any_sector(input)};
    auto header_bytes = test::bytes_of(header);
    if ((shape & 0x0f) == 0x0f)
        header_bytes = header_bytes.first(input.take<uint8_t>() % 16);
    if (!header_bytes.empty())
        buffers.push_back(driver.readable(header_bytes));
    if (header.type == VIRTIO_BLK_T_DISCARD || header.type == VIRTIO_BLK_T_WRITE_ZEROES) {
        std::array<virtio_blk_discard_write_zeroes, 3> ranges = {};
        for (auto& range : ranges)
            range = {any_sector(input), input.take<uint8_t>() % 40u, input.take<uint8_t>() % 3u};
        size_t size = shape & 0x10 ? input.take<uint8_t>() % sizeof(ranges) : sizeof(ranges[0]);
        buffers.push_back(driver.readable(test::bytes_of(ranges).first(size)));
    } else if (shape & 0x20) {
        std::vector<std::byte> data(any_size(input), static_cast<std::byte>(shape));
        buffers.push_back(driver.readable(data));
    }
    bool writable = false;
    if (shape & 0x40) {
        uint32_t size = any_size(input);
        buffers.push_back(driver.writable(size));
        writable |= size > 0;
    }
    if ((shape & 0x80) == 0) {
        buffers.push_back(driver.writable(1));
        writable = true;
    }
    if (buffers.empty())
        buffers.push_back(driver.readable(test::bytes_of(header)));
    driver.add(buffers);
    return writable;
}

void run(EventLoop& loop, const GuestMemory& memory, Input input) {
    uint8_t flags = input.take<uint8_t>();
    auto until = [&loop](const std::function<bool()>& done) {
        require(loop.run_until(done, std::chrono::seconds(20)));
    };
    test::CountingLine line;
    VirtioBlock device(memory, loop, make_disk(loop, flags % 4), {});
    device.attach(&line);
    uint64_t dropped = flags & 4 ? 1ull << VIRTIO_BLK_F_FLUSH : 0;
    require(
        device.set_features(device.offered_features() & ~dropped & ~(1ull << kFeatureEventIndex))
            .has_value());
    require(
        memory.write_bytes(GuestAddress(0), std::vector<std::byte>(64 * limits::kKiB)).has_value());
    test::FakeDriver driver(memory, GuestAddress(0), 256, memory.size());
    require(device.queues()[0].configure(driver.queue_state(), false).has_value());
    device.activate();

    unsigned sent = 0;
    bool good = true;
    while (!input.empty() && sent < kRequestsMax && good) {
        good = add_request(driver, input);
        sent += good;
        if (input.take<uint8_t>() % 4 == 0)
            device.kick();
    }
    device.kick();
    if (good)
        until([&] { return driver.used_index() == sent; });
    require((line.failures == 0) == good);
    bool over = false;
    device.reset([&] { over = true; });
    until([&] { return over; });
    require(driver.used_index() == sent && device.disk().in_flight() == 0);
    require(device.counters().host_errors == 0);
    for (unsigned count = 0; count < sent; count++)
        require(driver.take_used().has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    static GuestMemory memory = test::make_memory(2 * limits::kMiB);
    run(*loop, memory, Input(data, size));
    return 0;
}
