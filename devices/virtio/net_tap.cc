// A tap interface as back end: one read or write for each frame, with its NetHeader in front.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cassert>
#include <cstring>
#include <deque>
#include <vector>

#include "devices/virtio/net_backend.h"
#include "hypervisor/base/mapping.h"

namespace spore {

namespace {

constexpr size_t kReadsMax = 16;
constexpr size_t kReadBytes = sizeof(NetHeader) + limits::kNetFrameBytesMax;
constexpr size_t kReadStride = (kReadBytes + 4095) & ~size_t{4095};

class TapBackend final : public NetBackend {
  public:
    TapBackend(RingFile file, Mapping buffers, bool has_offloads, EventLoop& loop)
        : loop_(loop),
          file_(std::move(file)),
          buffers_(std::move(buffers)),
          has_offloads_(has_offloads) {
        for (size_t index = 0; index < kReadsMax; index++)
            reads_.push_back(std::make_unique<Read>(*this, index));
        for (size_t index = 0; index < limits::kNetSendsMax; index++) {
            sends_.push_back(std::make_unique<Send>(*this));
            idle_sends_.push_back(sends_.back().get());
        }
    }

    bool has_offloads() const override { return has_offloads_; }
    void start(uint64_t features) override;
    void stop() override;
    void pump() override;
    bool can_send() const override { return !idle_sends_.empty(); }
    void send(NetSend send) override;

  private:
    struct Read {
        Read(TapBackend& tap, size_t index)
            : buffer(tap.buffers_.span().subspan(index * kReadStride, kReadBytes)),
              operation([&tap, this](int32_t result) { tap.on_read(*this, result); }) {}
        std::span<std::byte> buffer;
        size_t size = 0;
        bool may_wait = false;
        Operation operation;
    };
    struct Send {
        explicit Send(TapBackend& tap)
            : operation([&tap, this](int32_t result) { tap.on_sent(*this, result); }) {}
        NetSend packet;
        std::vector<iovec> buffers;
        Operation operation;
    };

    void read_more();
    void on_read(Read& read, int32_t result);
    void on_sent(Send& send, int32_t result);

    EventLoop& loop_;
    RingFile file_;
    Mapping buffers_;
    bool has_offloads_;
    unsigned offload_flags_ = 0;
    bool running_ = false;

    // Frames are read in rounds: some reads that do not wait, then one that does. The ring works
    // them off in this order, so completions come in the frames' order; the next round begins when
    // every read of this one is done and its frames are delivered.
    std::vector<std::unique_ptr<Read>> reads_;
    std::deque<Read*> filled_;
    size_t reads_in_flight_ = 0;
    size_t round_ = 0;         // reads of the present round that do not wait
    size_t round_filled_ = 0;  // those of them that found a frame
    bool no_wait_works_ = true;

    std::vector<std::unique_ptr<Send>> sends_;
    std::vector<Send*> idle_sends_;
};

void TapBackend::start(uint64_t features) {
    auto has = [&](unsigned feature) { return (features >> feature & 1) != 0; };
    unsigned flags = 0;
    if (has(kNetGuestCsum))  // segmentation without checksums is refused by the kernel
        flags = TUN_F_CSUM | (has(kNetGuestTso4) ? TUN_F_TSO4 : 0u) |
                (has(kNetGuestTso6) ? TUN_F_TSO6 : 0u);
    if (has_offloads_ && ::ioctl(file_.fd(), TUNSETOFFLOAD, flags) != 0) {
        sink_->link_lost();
        return;
    }
    if (flags != offload_flags_)
        filled_.clear();  // they were made for another driver
    offload_flags_ = flags;
    running_ = true;
    pump();
}

void TapBackend::stop() {
    running_ = false;
    for (auto& read : reads_)
        loop_.cancel(read->operation);
    for (auto& send : sends_)
        loop_.cancel(send->operation);
}

void TapBackend::pump() {
    while (running_ && !filled_.empty()) {
        Read& read = *filled_.front();
        if (read.size < sizeof(NetHeader) + ETH_HLEN) {
            sink_->receive_dropped();
        } else {
            NetHeader header;
            std::memcpy(&header, read.buffer.data(), sizeof(header));
            if (!sink_->receive(header,
                                read.buffer.subspan(sizeof(header), read.size - sizeof(header))))
                return;
        }
        filled_.pop_front();
    }
    if (running_ && reads_in_flight_ == 0)
        read_more();
}

void TapBackend::read_more() {
    // As many as found a frame last time, and more if all of them did.
    round_ = !no_wait_works_ ? 0 : round_filled_ < round_ ? round_filled_ : 2 * round_ + 1;
    round_ = std::min(round_, kReadsMax - 1);
    round_filled_ = 0;
    for (size_t index = 0; index <= round_; index++) {
        Read& read = *reads_[index];
        read.may_wait = index == round_;
        reads_in_flight_++;
        sink_->begin_io();
        loop_.read(read.operation, file_, read.buffer, EventLoop::kStream,
                   read.may_wait ? 0 : RWF_NOWAIT);
    }
}

void TapBackend::on_read(Read& read, int32_t result) {
    reads_in_flight_--;
    if (result >= 0) {
        read.size = static_cast<size_t>(result);
        round_filled_ += !read.may_wait;
        filled_.push_back(&read);
    } else if (result == -EOPNOTSUPP && !read.may_wait) {
        no_wait_works_ = false;
    } else if (result != -EAGAIN && result != -EINTR && result != -ECANCELED && running_) {
        running_ = false;  // the interface was deleted, most likely
        sink_->link_lost();
    }
    pump();
    sink_->end_io();
}

void TapBackend::send(NetSend packet) {
    Send& send = *idle_sends_.back();
    idle_sends_.pop_back();
    send.packet = std::move(packet);
    send.buffers.clear();
    send.buffers.push_back({&send.packet.header, sizeof(NetHeader)});
    slice(send.packet.chain.readable(), sizeof(NetHeader), send.packet.frame_bytes, send.buffers);
    sink_->begin_io();
    loop_.writev(send.operation, file_, send.buffers, EventLoop::kStream);
}

void TapBackend::on_sent(Send& send, int32_t result) {
    idle_sends_.push_back(&send);
    sink_->sent(std::move(send.packet.chain), send.packet.frame_bytes, result >= 0);
    sink_->end_io();
}

}  // namespace

Result<UniqueFd> open_tap(const std::string& name) {
    std::string what = "tap '" + name + "'";
    if (name.size() >= IFNAMSIZ)
        return fail(Code::invalid_argument, what + ": name of " + std::to_string(name.size()) +
                                                " bytes, at most " + std::to_string(IFNAMSIZ - 1));
    // TUNSETIFF would make the interface if it is not there.
    if (::if_nametoindex(name.c_str()) == 0)
        return fail(Code::not_found, what + ": no such interface");
    UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!tap)
        return fail_errno(what + ": /dev/net/tun");
    ifreq request = {};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(tap.get(), TUNSETIFF, &request) == 0)
        return tap;
    if (errno == EBUSY)
        return fail(Code::unavailable, what + ": busy: another program has it open");
    if (errno == EINVAL)
        return fail(Code::invalid_argument, what + ": is not a tap interface with a single queue");
    return fail_errno(what);
}

Result<std::unique_ptr<NetBackend>> make_tap_backend(UniqueFd tap, std::string_view what,
                                                     EventLoop& loop) {
    ifreq request = {};
    if (::ioctl(tap.get(), TUNGETIFF, &request) != 0)
        return fail(Code::invalid_argument, std::string(what) + ": is not attached to a tap");
    constexpr int kNeeded = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if ((request.ifr_flags & kNeeded) != kNeeded)
        return fail(Code::invalid_argument, std::string(what) + ": tap flags " +
                                                std::to_string(request.ifr_flags) +
                                                ", must have IFF_TAP, IFF_NO_PI and IFF_VNET_HDR");
    int header_bytes = sizeof(NetHeader);
    if (::ioctl(tap.get(), TUNSETVNETHDRSZ, &header_bytes) != 0)
        return fail_errno(std::string(what) + ": TUNSETVNETHDRSZ");
    // The kernel takes frames with any offload from us; whether it may give us such is asked here,
    // and switched off until a driver wants it.
    bool offloads = ::ioctl(tap.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) == 0 &&
                    ::ioctl(tap.get(), TUNSETOFFLOAD, 0) == 0;
    // The ring waits for frames itself: on a non-blocking file it would not.
    int flags = ::fcntl(tap.get(), F_GETFL);
    if (flags < 0 || ::fcntl(tap.get(), F_SETFL, flags & ~O_NONBLOCK) != 0)
        return fail_errno(std::string(what) + ": fcntl");
    auto buffers = TRY(Mapping::create(kReadsMax * kReadStride, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS));
    auto file = TRY(loop.add_file(std::move(tap)));
    return std::make_unique<TapBackend>(std::move(file), std::move(buffers), offloads, loop);
}

}  // namespace spore
