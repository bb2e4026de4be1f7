#include "devices/block/layered_disk.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "hypervisor/base/mapping.h"
#include "tests/unit/support/disk_bench.h"

namespace spore {
namespace {

using test::Bytes;
constexpr uint64_t kCluster = LayerMap::kClusterBytes;

class LayeredDiskTest : public test::DiskBench {
  protected:
    std::unique_ptr<LayeredDisk> make(LayeredDisk::Parts parts) {
        auto disk = LayeredDisk::create(*loop, std::move(parts));
        EXPECT_TRUE(disk.has_value()) << disk.error().message;
        return std::move(*disk);
    }
    DiskFile open(const std::string& name) {
        auto file = open_disk_file(path(name), DiskAccess::read_only);
        EXPECT_TRUE(file.has_value()) << file.error().message;
        return std::move(*file);
    }
    LayeredDisk::Layer new_top(const std::string& name, uint64_t bytes) {
        return {std::move(*create_disk_file(path(name), bytes)), *LayerMap::create(bytes)};
    }
    LayeredDisk::Layer layer(const std::string& name) {
        return {open(name), std::move(*LayerMap::load(path(name + ".map")))};
    }
    // A clone's disk over the base and layers named; its top is `top`.
    std::unique_ptr<LayeredDisk> clone(uint64_t bytes, const std::string& base,
                                       std::initializer_list<std::string> layers,
                                       const std::string& top) {
        LayeredDisk::Parts parts;
        parts.bytes = bytes;
        if (!base.empty())
            parts.base = open(base);
        for (const std::string& name : layers)
            parts.layers.push_back(layer(name));
        if (!top.empty())
            parts.top = new_top(top, bytes);
        return make(std::move(parts));
    }
    static void put(Bytes& model, uint64_t offset, const Bytes& bytes) {
        std::ranges::copy(bytes, model.begin() + static_cast<ptrdiff_t>(offset));
    }
    static void clear(Bytes& model, uint64_t offset, uint64_t size) {
        std::fill_n(model.begin() + static_cast<ptrdiff_t>(offset), size, std::byte{0});
    }
};

TEST_F(LayeredDiskTest, ReadsTheBaseAndZerosBeyondIt) {
    Bytes model = pattern(5 * 512 + kCluster, 1);  // ends within a cluster
    make_file("base", model);
    auto disk = clone(64 * kCluster, "base", {}, "top");
    EXPECT_EQ(disk->capacity(), 64 * kCluster);
    model.resize(64 * kCluster);
    EXPECT_EQ(content(*disk, 0, model.size()), model);
    EXPECT_EQ(content(*disk, 512, 512), Bytes(model.begin() + 512, model.begin() + 1024));
    EXPECT_EQ(content(*disk, 9 * kCluster, 512), Bytes(512));
    EXPECT_EQ(disk->top_map().count(), 0u);
}

TEST_F(LayeredDiskTest, PartialWritesCarryTheRestOfTheirClusters) {
    Bytes model = pattern(5 * 512 + kCluster, 2);
    make_file("base", model);
    const Bytes base = model;
    auto disk = clone(16 * kCluster, "base", {}, "top");
    model.resize(16 * kCluster);
    struct {
        uint64_t offset, size;
    } writes[] = {{512, 512},                          // within one cluster
                  {kCluster + 2048, 1024},             // where the base ends
                  {2 * kCluster + 512, 2 * kCluster},  // head and tail, above nothing
                  {6 * kCluster, 512},                 // head alone
                  {8 * kCluster - 512, 512},           // tail alone
                  {10 * kCluster, 2 * kCluster},       // whole ones
                  {1024, 12 * kCluster}};              // over all of these
    for (unsigned seed = 0; auto [offset, size] : writes) {
        Bytes bytes = pattern(size, ++seed);
        ASSERT_EQ(write(*disk, offset, bytes), 0);
        put(model, offset, bytes);
        ASSERT_EQ(content(*disk, 0, model.size()), model) << "after a write at " << offset;
    }
    EXPECT_EQ(file_content("base"), base) << "the base is never written";
}

TEST_F(LayeredDiskTest, GrowsWithRequestsInFlightAndHasZerosThere) {
    Bytes model = pattern(3 * kCluster + 512, 5);
    make_file("base", model);
    auto disk = clone(4 * kCluster, "base", {}, "top");
    // From one chunk of the map to several.
    constexpr uint64_t kLarger = 300 * limits::kMiB;
    bool written = false;
    Bytes bytes = pattern(512, 6);
    iovec buffer = {bytes.data(), bytes.size()};
    DiskRequest request([&](int32_t result) {
        EXPECT_EQ(result, 0);
        written = true;
    });
    disk->write({&buffer, 1}, 0, request);
    auto grown = disk->grow(kLarger);
    ASSERT_TRUE(grown.has_value()) << grown.error().message;
    ASSERT_TRUE(loop->run_until([&] { return written; }, std::chrono::seconds(60)));
    put(model, 0, bytes);
    model.resize(6 * kCluster);
    EXPECT_EQ(disk->capacity(), kLarger);
    EXPECT_EQ(content(*disk, 0, model.size()), model);
    const Bytes end = pattern(2 * kCluster, 7);
    ASSERT_EQ(write(*disk, kLarger - end.size(), end), 0);
    EXPECT_EQ(content(*disk, kLarger - end.size(), end.size()), end);
    EXPECT_EQ(disk->top_map().count(), 3u);
    EXPECT_EQ(std::filesystem::file_size(path("top")), kLarger);
    EXPECT_TRUE(disk->grow(kLarger)) << "as it is";
    for (uint64_t bad :
         {kLarger - kCluster, kLarger + 512, limits::kLayeredDiskBytesMax + kCluster}) {
        auto refused = disk->grow(bad);
        ASSERT_FALSE(refused.has_value());
        EXPECT_EQ(refused.error().code, Code::invalid_argument);
        EXPECT_NE(refused.error().message.find(std::to_string(bad)), std::string::npos)
            << refused.error().message;
    }
    EXPECT_EQ(disk->capacity(), kLarger);
}

// As on a host whose file system has no such file: the disk is what it was, and goes on.
TEST_F(LayeredDiskTest, IsAsItWasWhenItsHostLetsItNotGrow) {
    Bytes model = pattern(3 * kCluster, 8);
    make_file("base", model);
    auto disk = clone(4 * kCluster, "base", {}, "top");
    model.resize(4 * kCluster);
    rlimit before = {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto signal_before = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit small = {8 * kCluster, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    auto grown = disk->grow(300 * limits::kMiB);
    ::setrlimit(RLIMIT_FSIZE, &before);
    ::signal(SIGXFSZ, signal_before);
    ASSERT_FALSE(grown.has_value());
    EXPECT_NE(grown.error().message.find(std::to_string(300 * limits::kMiB)), std::string::npos)
        << grown.error().message;
    EXPECT_EQ(disk->capacity(), 4 * kCluster);
    EXPECT_EQ(std::filesystem::file_size(path("top")), 4 * kCluster);
    const Bytes bytes = pattern(kCluster, 9);
    ASSERT_EQ(write(*disk, kCluster, bytes), 0);
    put(model, kCluster, bytes);
    EXPECT_EQ(content(*disk, 0, model.size()), model);
    EXPECT_TRUE(disk->grow(8 * kCluster)) << "once it lets it";
}

TEST_F(LayeredDiskTest, DiscardedRangesReadAsZerosNotAsTheBase) {
    Bytes model = pattern(16 * kCluster, 3);
    make_file("base", model);
    auto disk = clone(16 * kCluster, "base", {}, "top");
    Bytes bytes = pattern(2 * kCluster, 4);
    ASSERT_EQ(write(*disk, 3 * kCluster, bytes), 0);
    put(model, 3 * kCluster, bytes);
    ASSERT_EQ(discard(*disk, 2 * kCluster, 2 * kCluster), 0);  // one from the base, one of the top
    clear(model, 2 * kCluster, 2 * kCluster);
    EXPECT_EQ(content(*disk, 0, model.size()), model);
    ASSERT_EQ(zero(*disk, 512, 512, false), 0);  // within a cluster of the base
    clear(model, 512, 512);
    ASSERT_EQ(zero(*disk, 6 * kCluster + 512, 3 * kCluster, true), 0);
    clear(model, 6 * kCluster + 512, 3 * kCluster);
    ASSERT_EQ(discard(*disk, 4 * kCluster + 512, 512), 0);  // within a cluster of the top
    clear(model, 4 * kCluster + 512, 512);
    EXPECT_EQ(content(*disk, 0, model.size()), model);
}

TEST_F(LayeredDiskTest, DiscardGivesTheTopsSpaceBack) {
    auto disk = clone(256 * kCluster, "", {}, "top");
    ASSERT_EQ(write(*disk, 0, pattern(256 * kCluster, 5)), 0);
    ASSERT_EQ(flush(*disk), 0);
    struct stat before = {}, after = {};
    ASSERT_EQ(::stat(path("top").c_str(), &before), 0);
    ASSERT_EQ(discard(*disk, 0, 256 * kCluster), 0);
    ASSERT_EQ(::stat(path("top").c_str(), &after), 0);
    EXPECT_LT(after.st_blocks, before.st_blocks / 10);
    EXPECT_EQ(content(*disk, 0, 256 * kCluster), Bytes(256 * kCluster));
}

TEST_F(LayeredDiskTest, ConcurrentFirstWritesToOneClusterKeepEachOthersBytes) {
    Bytes model = pattern(2 * kCluster, 6);
    make_file("base", model);
    auto disk = clone(2 * kCluster, "base", {}, "top");
    // All 14 sectors in the middle, each its own request, all at once; every other one a discard.
    Bytes fresh = pattern(14 * 512, 7);
    std::vector<iovec> buffers;
    std::vector<std::unique_ptr<DiskRequest>> requests;
    unsigned ended = 0;
    for (unsigned sector = 0; sector < 14; sector++)
        buffers.push_back({fresh.data() + sector * 512, 512});
    for (unsigned sector = 0; sector < 14; sector++) {
        requests.push_back(std::make_unique<DiskRequest>([&](int32_t result) {
            EXPECT_EQ(result, 0);
            ended++;
        }));
        uint64_t offset = 512 + sector * 512;
        if (sector % 4 == 3) {
            disk->discard(offset, 512, *requests.back());
            clear(model, offset, 512);
        } else {
            disk->write(std::span(&buffers[sector], 1), offset, *requests.back());
            put(model, offset,
                Bytes(fresh.begin() + sector * 512, fresh.begin() + (sector + 1) * 512));
        }
    }
    ASSERT_TRUE(until([&] { return ended == 14; }));
    EXPECT_EQ(content(*disk, 0, model.size()), model);
}

TEST_F(LayeredDiskTest, AFailedFirstWriteLeavesTheOldContent) {
    Bytes model = pattern(8 * kCluster, 8);
    make_file("base", model);
    auto disk = clone(8 * kCluster, "base", {}, "top");
    // Unreadable memory makes the write fail; its waiting neighbour must go on.
    auto hole = Mapping::create(4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
    iovec bad = {hole->data(), 1024};
    Bytes bytes = pattern(512, 9);
    iovec good = {bytes.data(), 512};
    std::optional<int32_t> first, second;
    DiskRequest one([&](int32_t result) { first = result; });
    DiskRequest two([&](int32_t result) { second = result; });
    disk->write(std::span(&bad, 1), 512, one);
    disk->write(std::span(&good, 1), 2048, two);
    ASSERT_TRUE(until([&] { return first && second; }));
    EXPECT_EQ(*first, -EFAULT);
    EXPECT_EQ(*second, 0);
    put(model, 2048, bytes);
    EXPECT_EQ(content(*disk, 0, model.size()), model);
}

TEST_F(LayeredDiskTest, AVeryScatteredReadIsPutTogether) {
    Bytes model = pattern(256 * kCluster, 10);
    make_file("base", model);
    auto disk = clone(300 * kCluster, "base", {}, "top");
    model.resize(300 * kCluster);
    for (unsigned cluster = 0; cluster < 300; cluster += 2) {
        Bytes bytes = pattern(kCluster, cluster);
        ASSERT_EQ(write(*disk, cluster * kCluster, bytes), 0);
        put(model, cluster * kCluster, bytes);
    }
    EXPECT_EQ(content(*disk, 512, 299 * kCluster),
              Bytes(model.begin() + 512, model.begin() + 512 + 299 * kCluster));
}

TEST_F(LayeredDiskTest, ChainsOfThreeLayersShowTheNewestOfEach) {
    Bytes model = pattern(8 * kCluster, 11);
    make_file("base", model);
    model.resize(12 * kCluster);
    auto freeze = [&](LayeredDisk& disk, const std::string& name) {
        ASSERT_EQ(flush(disk), 0);
        ASSERT_TRUE(disk.save_map(path(name + ".map")).has_value());
    };
    auto change = [&](LayeredDisk& disk, unsigned seed) {
        Bytes bytes = pattern(2 * kCluster, seed);
        ASSERT_EQ(write(disk, seed * kCluster + 512, bytes), 0);
        put(model, seed * kCluster + 512, bytes);
        ASSERT_EQ(discard(disk, (seed + 5) * kCluster, kCluster), 0);
        clear(model, (seed + 5) * kCluster, kCluster);
    };
    {
        auto disk = clone(10 * kCluster, "base", {}, "one");
        change(*disk, 1);
        freeze(*disk, "one");
    }
    {
        auto disk = clone(12 * kCluster, "base", {"one"}, "two");  // and larger than it was
        change(*disk, 2);
        freeze(*disk, "two");
    }
    {
        auto disk = clone(12 * kCluster, "base", {"one", "two"}, "three");
        change(*disk, 3);
        freeze(*disk, "three");
    }
    auto left = clone(12 * kCluster, "base", {"one", "two", "three"}, "left");
    auto right = clone(12 * kCluster, "base", {"one", "two", "three"}, "right");
    EXPECT_EQ(content(*left, 0, model.size()), model);
    Bytes bytes = pattern(512, 20);
    ASSERT_EQ(write(*left, 3 * kCluster, bytes), 0);
    EXPECT_EQ(content(*right, 0, model.size()), model) << "one clone's write is not the other's";
    put(model, 3 * kCluster, bytes);
    EXPECT_EQ(content(*left, 0, model.size()), model);
    auto frozen = clone(12 * kCluster, "base", {"one", "two", "three"}, "");
    EXPECT_TRUE(frozen->read_only());
    EXPECT_EQ(write(*frozen, 0, bytes), -EROFS);
    EXPECT_EQ(flush(*frozen), 0);
}

TEST_F(LayeredDiskTest, FreezingTheTopLetsTheDiskGoOnAboveIt) {
    Bytes model = pattern(8 * kCluster, 12);
    make_file("base", model);
    auto disk = clone(8 * kCluster, "base", {}, "top");
    Bytes frozen;
    for (unsigned round = 0; round < limits::kDiskLayersMax; round++) {
        Bytes bytes = pattern(1024, 100 + round);
        ASSERT_EQ(write(*disk, round * 2048, bytes), 0);
        put(model, round * 2048, bytes);
        ASSERT_EQ(flush(*disk), 0);
        std::string name = round == 0 ? "top" : "top" + std::to_string(round);
        ASSERT_TRUE(disk->save_map(path(name + ".map")).has_value());
        if (round == 0)
            frozen = model;
        auto above = create_disk_file(path("top" + std::to_string(round + 1)), 8 * kCluster);
        ASSERT_TRUE(disk->freeze(std::move(*above)).has_value());
        EXPECT_EQ(disk->top_map().count(), 0u);
        ASSERT_EQ(content(*disk, 0, model.size()), model);
    }
    auto clone_of_first = clone(8 * kCluster, "base", {"top"}, "other");
    EXPECT_EQ(content(*clone_of_first, 0, frozen.size()), frozen);
    auto one_more = create_disk_file(path("one-more"), 8 * kCluster);
    auto status = disk->freeze(std::move(*one_more));
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().code, Code::resource_exhausted);
    ASSERT_EQ(write(*disk, 0, pattern(512, 1)), 0) << "the disk still works";
}

TEST_F(LayeredDiskTest, RefusesPartsThatDoNotFit) {
    make_file("base", pattern(8 * kCluster, 1));
    auto code_of = [&](LayeredDisk::Parts parts) {
        auto disk = LayeredDisk::create(*loop, std::move(parts));
        return disk.has_value() ? Code::internal : disk.error().code;
    };
    LayeredDisk::Parts small;
    small.base = open("base");
    small.bytes = 4 * kCluster;
    EXPECT_EQ(code_of(std::move(small)), Code::invalid_argument);
    LayeredDisk::Parts odd;
    odd.bytes = 4 * kCluster + 512;
    EXPECT_EQ(code_of(std::move(odd)), Code::invalid_argument);
    LayeredDisk::Parts top;
    top.bytes = 4 * kCluster;
    top.top = new_top("top", 8 * kCluster);
    EXPECT_EQ(code_of(std::move(top)), Code::invalid_argument);
    LayeredDisk::Parts other_map;
    other_map.bytes = 8 * kCluster;
    other_map.layers.push_back({open("base"), *LayerMap::create(4 * kCluster)});
    EXPECT_EQ(code_of(std::move(other_map)), Code::invalid_argument);
    LayeredDisk::Parts many;
    many.bytes = 8 * kCluster;
    for (size_t count = 0; count <= limits::kDiskLayersMax; count++)
        many.layers.push_back({open("base"), *LayerMap::create(8 * kCluster)});
    EXPECT_EQ(code_of(std::move(many)), Code::invalid_argument);
}

// Random requests, many at a time, against a model in memory. Requests in flight together do not
// overlap by a byte (their outcome would be open) but do share clusters all the time.
class RandomRequests {
  public:
    RandomRequests(Disk& disk, Bytes& model, unsigned seed)
        : disk_(disk), model_(model), random_(seed) {
        for (unsigned slot = 0; slot < 48; slot++)
            slots_.push_back(std::make_unique<Slot>(*this));
    }

    // Starts what there is room for; says whether all `count` requests have ended.
    bool run(unsigned count) {
        while (started_ < count && start()) {
        }
        return ended_ == count;
    }
    unsigned failures() const { return failures_; }

  private:
    struct Slot {
        explicit Slot(RandomRequests& owner)
            : request([&owner, this](int32_t result) { owner.ended(*this, result); }) {}
        bool busy = false;
        unsigned kind = 0;
        uint64_t offset = 0, size = 0;
        Bytes bytes;
        std::vector<iovec> buffers;
        DiskRequest request;
    };

    bool start() {
        auto slot = std::ranges::find_if(slots_, [](const auto& one) { return !one->busy; });
        if (slot == slots_.end())
            return false;
        Slot& job = **slot;
        uint64_t sectors = disk_.capacity() / 512;
        uint64_t first = random_() % sectors;
        job.offset = first * 512;
        job.size =
            std::min<uint64_t>(sectors - first, 1 + random_() % (random_() % 4 ? 9 : 60)) * 512;
        for (const auto& other : slots_) {
            if (other->busy && other->offset < job.offset + job.size &&
                job.offset < other->offset + other->size)
                return random_() % 4 != 0;  // another place, or wait a little
        }
        job.busy = true;
        job.kind = random_() % 8;
        job.bytes.assign(job.size, std::byte{0xee});
        job.buffers.clear();
        for (uint64_t done = 0; done < job.size;) {
            uint64_t piece = std::min<uint64_t>(job.size - done, 1 + random_() % 3000);
            job.buffers.push_back({job.bytes.data() + done, piece});
            done += piece;
        }
        started_++;
        if (job.kind < 3) {
            disk_.read(job.buffers, job.offset, job.request);
        } else if (job.kind < 6) {
            for (std::byte& byte : job.bytes)
                byte = static_cast<std::byte>(random_());
            disk_.write(job.buffers, job.offset, job.request);
        } else if (job.kind == 6) {
            disk_.discard(job.offset, job.size, job.request);
        } else {
            disk_.write_zeroes(job.offset, job.size, random_() % 2 != 0, job.request);
        }
        return true;
    }

    void ended(Slot& job, int32_t result) {
        auto place = model_.begin() + static_cast<ptrdiff_t>(job.offset);
        if (result != 0)
            failures_++;
        else if (job.kind < 3)
            failures_ += !std::equal(job.bytes.begin(), job.bytes.end(), place);
        else if (job.kind < 6)
            std::ranges::copy(job.bytes, place);
        else
            std::fill_n(place, job.size, std::byte{0});
        job.busy = false;
        ended_++;
    }

    Disk& disk_;
    Bytes& model_;
    std::mt19937 random_;
    std::vector<std::unique_ptr<Slot>> slots_;
    unsigned started_ = 0, ended_ = 0, failures_ = 0;
};

TEST_F(LayeredDiskTest, ThousandsOfRandomConcurrentRequestsAgreeWithAModel) {
    for (unsigned seed = 1; seed <= 4; seed++) {
        std::cout << "seed " << seed << "\n";
        std::string suffix = std::to_string(seed);
        Bytes model = pattern(40 * kCluster + 1024, seed);
        make_file("base" + suffix, model);
        model.resize(64 * kCluster);
        {
            auto disk = clone(64 * kCluster, "base" + suffix, {}, "layer" + suffix);
            RandomRequests first(*disk, model, seed);
            ASSERT_TRUE(until([&] { return first.run(40); }));
            ASSERT_EQ(flush(*disk), 0);
            ASSERT_TRUE(disk->save_map(path("layer" + suffix + ".map")).has_value());
        }
        auto disk = clone(64 * kCluster, "base" + suffix, {"layer" + suffix}, "top" + suffix);
        for (unsigned round = 0; round < 5; round++) {
            // The map fills up in the first few hundred requests: those are the hard ones.
            RandomRequests requests(*disk, model, seed * 100 + round);
            unsigned count = round < 3 ? 60 : 2000;
            ASSERT_TRUE(until([&] { return requests.run(count); }));
            ASSERT_EQ(requests.failures(), 0u);
            ASSERT_EQ(content(*disk, 0, model.size()), model) << "round " << round;
        }
    }
}

TEST_F(LayeredDiskTest, ManyFreshClonesUnderRandomRequestsAgreeWithTheModel) {
    Bytes base = pattern(16 * kCluster, 77);
    make_file("base", base);
    for (unsigned seed = 1; seed <= 60; seed++) {
        Bytes model = base;
        std::string top = "top" + std::to_string(seed);
        auto disk = clone(16 * kCluster, "base", {}, top);
        RandomRequests requests(*disk, model, seed);
        ASSERT_TRUE(until([&] { return requests.run(80); })) << "seed " << seed;
        ASSERT_EQ(requests.failures(), 0u) << "seed " << seed;
        ASSERT_EQ(content(*disk, 0, model.size()), model) << "seed " << seed;
    }
}

}  // namespace
}  // namespace spore
