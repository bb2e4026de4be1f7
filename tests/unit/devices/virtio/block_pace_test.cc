// What a limited disk lets through in real time.
#include "tests/unit/support/block_bench.h"
#include "tests/unit/support/pace.h"

namespace spore {
namespace {

using namespace test;

class BlockPaceTest : public BlockBench {
  protected:
    static constexpr uint32_t kReadBytes = 4096;
    static constexpr size_t kReads = 32;

    // Keeps kReads reads in the queue.
    void pump() {
        if (reads.empty()) {
            for (size_t read = 0; read < kReads; read++)
                add(reads.emplace_back(std::vector<Buffer>{
                    header(VIRTIO_BLK_T_IN), driver().writable(kReadBytes), driver().writable(1)}));
        } else {
            size_t used = 0;
            while (driver().take_used())
                used++;
            for (; used > 0; used--)
                add(reads[next++ % kReads]);
        }
        device->kick();
    }
    void add(const std::vector<Buffer>& buffers) { driver().add(buffers); }
    Paced paced(const char* name, const Rate& rate, uint64_t one,
                std::function<uint64_t()> passed) {
        return {name, rate, device->rate(), std::move(passed), kReads * one};
    }

    std::vector<std::vector<Buffer>> reads;
    size_t next = 0;
};

TEST_F(BlockPaceTest, BytesPassAtTheirRate) {
    start();
    constexpr Rate kRate = {20 << 20, 10 << 20};
    device->rate().change({.bytes = kRate});
    const Paced all[] = {
        paced("disk, bytes", kRate, kReadBytes, [&] { return device->statistics().read_bytes; })};
    expect_paces(*loop, all, [&] { pump(); });
}

TEST_F(BlockPaceTest, OperationsPassAtTheirRate) {
    start();
    constexpr Rate kRate = {2000, 1000};
    device->rate().change({.operations = kRate});
    const Paced all[] = {
        paced("disk, operations", kRate, 1, [&] { return device->statistics().reads; })};
    expect_paces(*loop, all, [&] { pump(); });
}

}  // namespace
}  // namespace spore
