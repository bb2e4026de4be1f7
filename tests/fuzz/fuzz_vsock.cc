// The vsock device between a hostile guest and hostile host programs, and its saved state.
//
// Threat model: the guest writes any packet into its tx queue, gives any buffers to the rx and
// event queues, and rings doorbells at any time; host programs connect, write, half-close and leave
// at any time; the machine is paused and resumed in between. The input is a program for both: one
// byte for the action, the bytes after it for its parameters. Packets start out well-formed, with
// ports from a small set, so that connections come about; then a few of their bytes are changed.
//
// The machine also goes on in another process now and then, with a connection carried or none.
//
// Checked besides memory safety and the code's own assertions: memory for slow host programs stays
// within the credit given, and a reset leaves nothing in flight and nobody connected.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdlib>
#include <deque>

#include "devices/virtio/vsock.h"

namespace {

using namespace spore;

constexpr uint16_t kQueueSize = 64;
constexpr uint64_t kRingBytes = 16 * limits::kKiB;  // of each queue, from address 0 on
constexpr uint64_t kBuffers = 64 * limits::kKiB;    // behind them
constexpr uint64_t kMemoryBytes = 2 * limits::kMiB;

void require(bool condition) {
    if (!condition)
        std::abort();
}

class Input {
  public:
    Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
    bool empty() const { return size_ == 0; }
    uint8_t byte() {
        if (size_ == 0)
            return 0;
        size_--;
        return *data_++;
    }
    uint32_t word() {
        uint32_t value = 0;
        for (int count = 0; count < 4; count++)
            value = value << 8 | byte();
        return value;
    }

  private:
    const uint8_t* data_;
    size_t size_;
};

struct Line : InterruptLine {
    void queue_used(uint16_t) override {}
    void config_changed() override {}
    void device_failed() override {}
};

struct World {
    World() {
        char name[] = "/tmp/fuzz-vsock-XXXXXX";
        require(::mkdtemp(name) != nullptr);
        config.uds_path = std::string(name) + "/v";
        for (unsigned port = 0; port < 2; port++) {
            sockaddr_un address = path_address("_" + std::to_string(port));
            listeners[port] =
                UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            require(::bind(listeners[port].get(), reinterpret_cast<sockaddr*>(&address),
                           sizeof(address)) == 0);
            require(::listen(listeners[port].get(), 64) == 0);
        }
    }
    sockaddr_un path_address(const std::string& suffix) const {
        std::string path = config.uds_path + suffix;
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.data(), path.size());
        return address;
    }

    MemoryExtent extent{GuestAddress(0), kMemoryBytes};
    GuestMemory memory = *GuestMemory::allocate(std::span(&extent, 1));
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    VsockConfig config;
    UniqueFd listeners[2];
};

class Session {
  public:
    Session(World& world, Input& input) : world_(world), input_(input) {
        std::ranges::fill(*world.memory.range(GuestAddress(0), kBuffers), std::byte{0});
        event_index_ = (input.byte() & 1) != 0;
        begin();
        start();
    }
    ~Session() { end(); }

    void run() {
        for (unsigned actions = 0; actions < 200 && !input_.empty(); actions++) {
            act();
            require(device_->buffered_bytes() <=
                    device_->connection_count() * limits::kVsockBufferBytes);
        }
    }

  private:
    void begin() {
        device_ = std::move(*VsockDevice::create(world_.config, world_.memory, *world_.loop));
        device_->attach(&line_);
    }
    void start() {
        require(device_
                    ->set_features(uint64_t{1} << VIRTIO_F_VERSION_1 | uint64_t{event_index_}
                                                                           << kFeatureEventIndex)
                    .has_value());
        for (uint16_t queue = 0; queue < 3; queue++) {
            QueueState state;
            state.size = kQueueSize;
            state.ready = true;
            state.descriptor_table = queue * kRingBytes;
            state.available_ring = queue * kRingBytes + 4096;
            state.used_ring = queue * kRingBytes + 8192;
            require(device_->queues()[queue].configure(state, event_index_).has_value());
        }
        device_->activate();
    }
    void end() {
        bool done = false;
        device_->reset([&] { done = true; });
        while (!done)
            turn();
        require(device_->connection_count() == 0 && device_->buffered_bytes() == 0);
        device_.reset();
        require(world_.loop->in_flight() == 0);
    }

    void turn() {
        world_.loop->post([] {});  // so that it does not wait
        int turns = 0;
        world_.loop->run_until([&] { return turns++ > 0; }, std::chrono::seconds(1));
    }

    void act() {
        switch (input_.byte() % 16) {
            case 0:
            case 1:
            case 2:
            case 3:
                send_packet();
                break;
            case 4:
            case 5:
                add_writable(VsockDevice::kRxQueue, 16);
                break;
            case 6:
                add_writable(VsockDevice::kRxQueue, 1);
                break;
            case 7:
                add_writable(VsockDevice::kEventQueue, 1);
                break;
            case 8:
                device_->kick();
                break;
            case 9:
                dial();
                break;
            case 10:
                accept();
                break;
            case 11:
                host_write();
                break;
            case 12:
                host_read();
                break;
            case 13:
                host_leaves();
                break;
            case 14:
                turn();
                break;
            default:
                rare();
                break;
        }
    }

    void rare() {
        switch (input_.byte() % 6) {
            case 0:
                pause();
                break;
            case 1:
                device_->announce_reset();
                break;
            case 2:
                attach();
                break;
            case 3:
                restore();
                break;
            case 4:
                poke();
                break;
            default:
                turn();
                turn();
                turn();
                break;
        }
    }

    // A descriptor chain of one or two pieces anywhere in the buffers, mostly within memory.
    void add(uint16_t queue, uint64_t address, uint32_t size, bool writable, uint32_t split) {
        uint16_t slot = static_cast<uint16_t>(next_[queue] * 2 % kQueueSize);
        auto flags = static_cast<uint16_t>(writable ? kDescriptorWrite : 0);
        uint64_t table = queue * kRingBytes;
        split = std::min(split, size);
        VirtqDescriptor first = {address, split, static_cast<uint16_t>(flags | kDescriptorNext),
                                 static_cast<uint16_t>(slot + 1)};
        VirtqDescriptor second = {address + split, size - split, flags, 0};
        (void)world_.memory.write(GuestAddress(table + 16u * slot), first);
        (void)world_.memory.write(GuestAddress(table + 16u * slot + 16), second);
        uint64_t ring = table + 4096;
        (void)world_.memory.write(GuestAddress(ring + 4 + 2u * (next_[queue] % kQueueSize)), slot);
        next_[queue]++;
        (void)world_.memory.write(GuestAddress(ring + 2), next_[queue]);
    }
    uint64_t room(uint64_t size) {
        if (cursor_ + size > kMemoryBytes)
            cursor_ = kBuffers;
        uint64_t address = cursor_;
        cursor_ += size;
        return address;
    }

    void add_writable(uint16_t queue, unsigned count) {
        static constexpr uint32_t kSizes[] = {4, 43, 44, 45, 100, 4140, 4140, 65'580};
        uint8_t choice = input_.byte();
        uint32_t size = kSizes[choice % 8];
        for (; count > 0; count--)
            add(queue, room(size), size, true, (choice >> 3) * 2u);
        if (choice & 0x80)
            device_->kick();
    }

    void send_packet() {
        uint8_t choice = input_.byte();
        uint8_t ports = input_.byte();
        static constexpr uint32_t kLengths[] = {0, 1, 100, 4096, 65'536, 0, 0, 0};
        uint32_t length = kLengths[input_.byte() % 8];
        VsockHeader header = {};
        header.src_cid = 3;
        header.dst_cid = 2;
        header.src_port = ports & 7;
        // Ports that guests call, and those that the device gives its own connections.
        header.dst_port =
            (ports & 8) != 0 ? (ports >> 4) % 3u : VsockDevice::kHostPortFirst + (ports >> 4);
        header.type = VIRTIO_VSOCK_TYPE_STREAM;
        header.op = choice % 8;
        header.len = header.op == VIRTIO_VSOCK_OP_RW ? length : 0;
        header.flags = header.op == VIRTIO_VSOCK_OP_SHUTDOWN ? input_.byte() & 3u : 0;
        header.buf_alloc = (choice & 8) != 0 ? 256 * limits::kKiB : input_.byte();
        header.fwd_cnt = (choice & 16) != 0 ? input_.word() : 0;
        auto* bytes = reinterpret_cast<uint8_t*>(&header);
        for (unsigned count = (choice & 32) != 0 ? input_.byte() % 4 : 0; count > 0; count--) {
            uint8_t at = input_.byte();
            bytes[at % sizeof(header)] = input_.byte();
        }
        uint64_t address = room(sizeof(header) + length);
        (void)world_.memory.write(GuestAddress(address), header);
        add(VsockDevice::kTxQueue, address, static_cast<uint32_t>(sizeof(header)) + length, false,
            (choice & 64) != 0 ? input_.byte() : 44);
        if (choice & 128)
            device_->kick();
    }

    // Any bytes anywhere in the rings.
    void poke() {
        uint64_t address = input_.word() % kBuffers;
        (void)world_.memory.write(GuestAddress(address), input_.byte());
    }

    void dial() {
        static constexpr std::string_view kLines[] = {"CONNECT 1\n",   "CONNECT 2\nhello",
                                                      "CONNECT 3\r\n", "CONNECT",
                                                      "ATTACH 1\n",    "ATTACH 2\nhello"};
        UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un address = world_.path_address("");
        if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
            return;
        uint8_t choice = input_.byte();
        if (choice < 200) {
            std::string_view line = kLines[choice % 6];
            (void)::send(fd.get(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        } else {
            char line[40] = "CONNECT ";
            for (size_t at = choice % 16u; at < sizeof(line); at++)
                line[at] = static_cast<char>(input_.byte());
            (void)::send(fd.get(), line, sizeof(line), MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        keep(std::move(fd));
        turn();
        turn();
    }
    void accept() {
        UniqueFd fd(::accept4(world_.listeners[input_.byte() & 1].get(), nullptr, nullptr,
                              SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (fd)
            keep(std::move(fd));
    }
    void attach() {
        int ends[2] = {};
        require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
        (void)device_->attach(UniqueFd(ends[0]), input_.byte());
        keep(UniqueFd(ends[1]));
    }
    void keep(UniqueFd fd) {
        programs_.push_back(std::move(fd));
        if (programs_.size() > 16)
            programs_.pop_front();
    }
    UniqueFd* program() {
        return programs_.empty() ? nullptr : &programs_[input_.byte() % programs_.size()];
    }
    void host_write() {
        static const std::string bytes(70'000, 'h');
        if (UniqueFd* fd = program())
            (void)::send(fd->get(), bytes.data(), input_.byte() * 273u,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    void host_read() {
        static char bytes[300'000];
        if (UniqueFd* fd = program())
            (void)::recv(fd->get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    }
    void host_leaves() {
        UniqueFd* fd = program();
        if (fd == nullptr)
            return;
        switch (input_.byte() % 3) {
            case 0:
                ::shutdown(fd->get(), SHUT_WR);
                break;
            case 1:
                ::shutdown(fd->get(), SHUT_RD);
                break;
            default:
                fd->reset();
                break;  // later calls on it just fail
        }
    }

    void pause() {
        bool done = false;
        device_->quiesce([&] { done = true; });
        while (!done)
            turn();
        require(world_.loop->in_flight() == 0);
        device_->resume();
    }
    // The machine goes on in another process, from its state as it was saved or as somebody changed
    // it.
    void restore() {
        bool done = false;
        device_->quiesce([&] { done = true; });
        while (!done)
            turn();
        uint8_t choice = input_.byte();
        auto saved = device_->save(std::nullopt);
        if ((choice & 1) != 0) {
            if (auto carrying = device_->save(
                    VsockPorts{VsockDevice::kHostPortFirst + (choice >> 4), (choice >> 1) & 7u}))
                saved = std::move(carrying);
        }
        require(saved.has_value());
        bool changed = input_.byte() % 4 == 0;
        if (changed)
            change(*saved);
        std::vector<QueueState> queues;
        for (Queue& queue : device_->queues())
            queues.push_back(queue.state());
        uint64_t features = device_->features();
        end();
        begin();
        Status restored = device_->restore(*saved);
        require(restored.has_value() || (changed && restored.error().code == Code::corrupt));
        if (restored) {
            auto again = device_->save();
            require(again.has_value() && *again == *saved);
        }
        if (!device_->VirtioDevice::restore(features, queues)) {
            start();  // rings that no driver has: it starts anew
            return;
        }
        if (!saved->carried)
            device_->announce_reset();
        if ((choice & 8) != 0)
            dial();  // before it runs
        device_->resume();
    }
    void change(VsockState& state) {
        if (!state.carried)
            state.carried.emplace();
        uint32_t* numbers[] = {&state.next_host_port,
                               &state.carried->ports.host,
                               &state.carried->ports.guest,
                               &state.carried->credit.guest_buffer_bytes,
                               &state.carried->credit.guest_forwarded,
                               &state.carried->credit.sent,
                               &state.carried->credit.received,
                               &state.carried->credit.forwarded,
                               &state.carried->credit.published};
        state.carried->credit.announced = input_.byte() % 8 != 0;
        for (unsigned count = input_.byte() % 4; count > 0; count--)
            *numbers[input_.byte() % std::size(numbers)] = input_.word();
        for (unsigned count = input_.byte() % 4; count > 0; count--)
            state.ended.push_back({input_.byte(), input_.byte()});
    }

    World& world_;
    Input& input_;
    Line line_;
    bool event_index_ = false;
    std::unique_ptr<VsockDevice> device_;
    std::deque<UniqueFd> programs_;
    uint16_t next_[3] = {};
    uint64_t cursor_ = kBuffers;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static World world;
    Input input(data, size);
    {
        Session session(world, input);
        session.run();
    }
    // What nobody accepted must not fill the backlog of the next session.
    for (UniqueFd& listener : world.listeners)
        while (UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC))) {
        }
    return 0;
}
