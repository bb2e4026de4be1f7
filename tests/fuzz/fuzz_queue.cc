// A virtqueue whose driver writes anything anywhere in guest memory, at any moment: what is popped
// lies within guest memory and within the limits, and what was set up survives a save.
//
// Input: queue size (as a power of 2), event index, then steps: one byte says which, its arguments
// follow.

#include <cstdlib>
#include <deque>

#include "devices/virtio/queue.h"
#include "tests/fuzz/input.h"

namespace {

using namespace spore;

constexpr uint64_t kMemoryBytes = 64 * limits::kKiB;
constexpr uint64_t kAvailable = 0x1000, kUsed = 0x2000;  // the descriptor table is at 0

void require(bool holds) {
    if (!holds)
        std::abort();
}

class QueueFuzzer {
  public:
    explicit QueueFuzzer(fuzz::Input& input) : input_(input) {
        for (const MemoryRegion& region : memory().regions())
            std::memset(region.mapping.data(), 0, region.size());
        auto shape = input_.take<uint8_t>();
        QueueState state;
        state.size = static_cast<uint16_t>(1u << (shape & 7));
        state.ready = true;
        state.available_ring = kAvailable;
        state.used_ring = kUsed;
        event_index_ = (shape & 0x80) != 0;
        require(queue_.configure(state, event_index_).has_value());
    }
    ~QueueFuzzer() { drop_held(); }

    void step() {
        bool popped_before = std::exchange(popped_last_, false);
        switch (input_.take<uint8_t>() % 12) {
            case 0:
            case 1:
                return write_memory();
            case 2:
                return write_descriptor();
            case 3:
            case 4:
                return publish();
            case 5:
            case 6:
                return pop();
            case 7:
                return push();
            case 8:
                if (popped_before) {
                    queue_.unpop(std::move(held_.back()));
                    held_.pop_back();
                }
                return;
            case 9:
                (void)queue_.should_interrupt();
                queue_.disable_kicks();
                (void)queue_.enable_kicks();
                return;
            case 10:
                return save_and_restore();
            default:
                return configure();
        }
    }

  private:
    static GuestMemory& memory() {
        static MemoryExtent extent{GuestAddress(0), kMemoryBytes};
        static GuestMemory memory = *GuestMemory::allocate(std::span(&extent, 1));
        return memory;
    }
    void write_memory() {
        GuestAddress address(input_.take<uint16_t>());
        (void)memory().write_bytes(address, input_.take_bytes(input_.take<uint8_t>()));
    }
    // As write_memory(), but likely to mean something.
    void write_descriptor() {
        auto index = input_.take<uint8_t>();
        VirtqDescriptor descriptor = {input_.take<uint16_t>(), input_.take<uint16_t>(),
                                      static_cast<uint16_t>(input_.take<uint8_t>() & 7),
                                      input_.take<uint8_t>()};
        (void)memory().write(GuestAddress(16u * index), descriptor);
    }
    void publish() {
        uint16_t next = *memory().read<uint16_t>(GuestAddress(kAvailable + 2));
        uint16_t slot = next & (queue_.state().size - 1);
        (void)memory().write(GuestAddress(kAvailable + 4 + 2u * slot),
                             uint16_t{input_.take<uint8_t>()});
        (void)memory().write(GuestAddress(kAvailable + 2), static_cast<uint16_t>(next + 1));
    }
    void pop() {
        auto chain = queue_.pop();
        if (!chain) {
            require(chain.error().code == Code::corrupt ||
                    chain.error().code == Code::invalid_argument);
            auto again = queue_.pop();
            require(again.has_value() && !again->has_value());
            return;
        }
        if (!*chain)
            return;
        check(**chain);
        held_.push_back(std::move(**chain));
        popped_last_ = true;
        require(held_.size() <= queue_.state().size);
    }
    void check(const DescriptorChain& chain) {
        auto all = memory().regions().front().mapping.span();
        size_t total = 0;
        for (auto buffers : {chain.readable(), chain.writable()}) {
            for (const iovec& buffer : buffers) {
                auto* start = static_cast<std::byte*>(buffer.iov_base);
                require(start >= all.data() && buffer.iov_len > 0 && buffer.iov_len <= all.size() &&
                        start + buffer.iov_len <= all.data() + all.size());
                total += buffer.iov_len;
            }
        }
        require(total == chain.readable_bytes() + chain.writable_bytes());
        require(total <= limits::kChainBytesMax);
        require(chain.readable().size() + chain.writable().size() <= limits::kChainDescriptorsMax);
    }
    void push() {
        if (held_.empty())
            return;
        DescriptorChain chain = std::move(held_.front());
        held_.pop_front();
        std::byte some[64] = {};
        copy_from(chain.readable(), input_.take<uint8_t>(), some);
        size_t written = copy_to(chain.writable(), 0, some);
        queue_.push(std::move(chain), static_cast<uint32_t>(written));
    }
    void save_and_restore() {
        QueueState saved = queue_.state();
        Queue other(memory(), queue_.size_max());
        require(other.configure(saved, event_index_).has_value());
        require(other.state() == saved);
    }
    // A new set-up, as after a reset.
    void configure() {
        drop_held();
        QueueState state;
        state.size = input_.take<uint16_t>();
        state.ready = true;
        state.descriptor_table = input_.take<uint64_t>();
        state.available_ring = input_.take<uint64_t>();
        state.used_ring = input_.take<uint64_t>();
        state.next_available = input_.take<uint16_t>();
        state.next_used = input_.take<uint16_t>();
        QueueState before = queue_.state();
        if (auto configured = queue_.configure(state, event_index_); !configured)
            require(queue_.state() == before);
        else if (state.next_available != state.next_used)
            queue_.reset();  // no device starts like this: it holds nothing yet
    }
    void drop_held() {
        for (DescriptorChain& chain : held_)
            chain.forget();
        if (!held_.empty())
            queue_.reset();
        held_.clear();
    }

    fuzz::Input& input_;
    Queue queue_{memory(), 128};
    bool event_index_ = false;
    bool popped_last_ = false;
    std::deque<DescriptorChain> held_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Input input(data, size);
    QueueFuzzer fuzzer(input);
    for (int steps = 0; !input.empty() && steps < 1000; steps++)
        fuzzer.step();
    return 0;
}
