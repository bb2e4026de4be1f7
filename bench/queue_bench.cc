// What the virtqueue itself costs: a chain made available by a fake driver, popped, and pushed
// back.

#include <benchmark/benchmark.h>

#include "devices/virtio/queue.h"
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

}  // namespace
}  // namespace spore

BENCHMARK_MAIN();
