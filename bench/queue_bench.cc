// What the virtqueue itself costs: a chain made available by a fake driver, popped, and pushed
// back; and what a block device adds to it, with requests that no disk is asked for.

#include <benchmark/benchmark.h>

#include "devices/virtio/block.h"
#include "devices/virtio/queue.h"
#include "hypervisor/base/quota_limits.h"
#include "tests/unit/support/fake_driver.h"

namespace spore {
namespace {

// state.range(0): descriptors of the chain; the first is read by the device, the others written.
void pop_and_push(benchmark::State& state) {
    GuestMemory memory = test::make_memory();
    test::FakeDriver driver(memory, GuestAddress(0x10000), 256);
    Queue queue(memory);
    if (!queue.configure(driver.queue_state(), true)) {
        state.SkipWithError("the queue refuses its configuration");
        return;
    }
    std::vector<test::Buffer> buffers = {driver.readable(test::bytes_of("request"))};
    while (buffers.size() < static_cast<size_t>(state.range(0)))
        buffers.push_back(driver.writable(512));
    for (auto _ : state) {
        state.PauseTiming();  // the driver's half is not ours
        driver.add(buffers);
        state.ResumeTiming();
        auto chain = queue.pop();
        if (!chain || !*chain) {
            state.SkipWithError("nothing to pop");
            return;
        }
        queue.push(std::move(**chain), 0);
        benchmark::DoNotOptimize(queue.should_interrupt());
        state.PauseTiming();
        driver.take_used();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(pop_and_push)->Arg(1)->Arg(3)->Arg(16);

// A kick with as many requests for a disk's name as the driver's queue has room for.
// state.range(0): what limit the device has.
enum { kNeverLimited, kLimited, kSetToUnlimited };  // kLimited: by what makes no request wait
void block_requests(benchmark::State& state) {
    constexpr int kRequests = 64;
    char path[] = "/tmp/spore-queue-bench-XXXXXX";
    UniqueFd file(::mkstemp(path));
    BlockConfig config;
    config.path = path;
    bool sized = file && ::ftruncate(file.get(), 1 << 20) == 0;
    GuestMemory memory = test::make_memory();
    auto loop = EventLoop::create();
    auto device = sized && loop ? VirtioBlock::create(memory, **loop, config)
                                : Result<std::unique_ptr<VirtioBlock>>(fail_errno(path));
    ::unlink(path);
    test::FakeDriver driver(memory, GuestAddress(0x10000), 256);
    if (!device || !(*device)->set_features(uint64_t{1} << VIRTIO_F_VERSION_1) ||
        !(*device)->queues()[0].configure(driver.queue_state(), false)) {
        state.SkipWithError("no device");
        return;
    }
    (*device)->activate();
    if (state.range(0) != kNeverLimited)
        (*device)->rate().change(
            {.bytes = {limits::kRateBytesMax, limits::kRateBytesMax},
             .operations = {limits::kRateOperationsMax, limits::kRateOperationsMax}});
    if (state.range(0) == kSetToUnlimited)
        (*device)->rate().change({});
    virtio_blk_outhdr header = {};
    header.type = VIRTIO_BLK_T_GET_ID;
    std::vector<test::Buffer> buffers = {driver.readable(test::bytes_of(header)),
                                         driver.writable(VIRTIO_BLK_ID_BYTES + 1)};
    for (auto _ : state) {
        state.PauseTiming();
        for (int count = 0; count < kRequests; count++)
            driver.add(buffers);
        state.ResumeTiming();
        (*device)->kick();
        state.PauseTiming();
        int used = 0;
        (void)(*loop)->run_until(
            [&] {
                while (driver.take_used())
                    used++;
                return used == kRequests;
            },
            std::chrono::seconds(10));
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * kRequests);
    bool idle = false;
    (*device)->reset([&] { idle = true; });
    (void)(*loop)->run_until([&] { return idle; }, std::chrono::seconds(10));
}
BENCHMARK(block_requests)
    ->ArgName("limited")
    ->Arg(kNeverLimited)
    ->Arg(kLimited)
    ->Arg(kSetToUnlimited);

// What a device without a limit pays for each request, beside block_requests' figure for one of
// them.
void no_limit(benchmark::State& state) {
    auto loop = EventLoop::create();
    if (!loop) {
        state.SkipWithError("no loop");
        return;
    }
    RateLimiter limiter(**loop, [] {}, [] {});
    for (auto _ : state) {
        benchmark::DoNotOptimize(&limiter);
        benchmark::ClobberMemory();
        bool asked = limiter.waiting() || limiter.limited();
        benchmark::DoNotOptimize(asked);
    }
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(no_limit);

}  // namespace
}  // namespace spore

BENCHMARK_MAIN();
