// A snapshot whose files are broken, foreign, or from another time.

#include <fcntl.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hypervisor/kvm/cpu_features.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/state_file.h"
#include "hypervisor/snapshot/working_set.h"
#include "schema/snapshot_generated.h"
#include "tests/bad_input/support/seed.h"
#include "tests/bad_input/support/vmm_bench.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;

constexpr int kUsage = 64, kData = 65, kNone = 66;

class BadSnapshot : public VmmBench {
  protected:
    void SetUp() override {
        VmmBench::SetUp();
        if (IsSkipped())
            return;
        source_ = TinySnapshot::get();
        ASSERT_NE(source_, nullptr);
        untouched_ = Inventory::take(source_->directory());
        state_bytes_ = read_file(source_->directory() / kStateFile);
    }
    void TearDown() override {
        if (source_ == nullptr)
            return;
        std::string touched =
            Inventory::difference(untouched_, Inventory::take(source_->directory()));
        EXPECT_TRUE(touched.empty()) << touched;
    }

    Words restore(const Words& more = {}) const {
        Words words = {"--restore", "snap",    "--disk",   "top",  "--vsock",    "v",
                       "--control", "control", "--serial", "none", "--ready-fd", "3"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    void expect_refused(std::string_view state, int status, const Words& words) {
        source_->variant(here() / "snap", state);
        expect_refusal(restore(), status, words);
    }
    MachineState decoded() const {
        auto payload = read_state_file(source_->directory() / kStateFile);
        EXPECT_TRUE(payload) << payload.error().message;
        auto state = decode_state(*payload);
        EXPECT_TRUE(state) << state.error().message;
        return std::move(*state);
    }
    std::string encoded(const MachineState& state) {
        std::error_code error;
        stdfs::remove(here() / "encoded", error);
        auto written = write_state_file(path("encoded"), encode_state(state));
        EXPECT_TRUE(written) << written.error().message;
        return read_file(here() / "encoded");
    }
    void expect_refused(const MachineState& state, int status, const Words& words) {
        expect_refused(encoded(state), status, words);
    }

    const TinySnapshot* source_ = nullptr;
    Inventory untouched_;
    std::string state_bytes_;
};

TEST_F(BadSnapshot, AGoodOneRuns) {
    for (const std::string& state : {state_bytes_, encoded(decoded())}) {
        source_->variant(here() / "snap", state);
        Outcome outcome = start_and_end(launch(restore()));
        EXPECT_TRUE(outcome.ran);
        EXPECT_TRUE(outcome.flaw.empty()) << outcome.flaw;
        EXPECT_EQ(outcome.ended.status, 0) << outcome.ended.describe();
        stdfs::remove(here() / "top");
    }
}

TEST_F(BadSnapshot, CutAnywhere) {
    std::mt19937_64 random(test_seed());
    std::vector<size_t> sizes = {0, 1, 8, 39, 40, 41, state_bytes_.size() - 1};
    while (sizes.size() < 50)
        sizes.push_back(random() % state_bytes_.size());
    for (size_t size : sizes)
        expect_refused(std::string_view(state_bytes_).substr(0, size), kData,
                       {"snap/state.spore", "snapshot state"});
    expect_refused(state_bytes_ + "x", kData, {"snap/state.spore"});
}

TEST_F(BadSnapshot, WithAnyByteFlipped) {
    std::mt19937_64 random(test_seed());
    for (int count = 0; count < 200; count++) {
        std::string state = state_bytes_;
        size_t place = count < 40 ? count : random() % state.size();  // the whole header, then any
        auto flip = static_cast<char>(1 + random() % 255);
        state[place] = static_cast<char>(state[place] ^ flip);
        SCOPED_TRACE("byte " + std::to_string(place) + " ^ " + std::to_string(flip));
        expect_refused(state, kData, {"snap/state.spore", "snapshot state"});
    }
}

TEST_F(BadSnapshot, OfANewerFormat) {
    std::string state = state_bytes_;
    uint32_t version = kSnapshotVersion + 1;
    std::memcpy(state.data() + 8, &version, sizeof(version));
    uint64_t hash = XXH3_64bits(state.data(), 32);
    std::memcpy(state.data() + 32, &hash, sizeof(hash));
    expect_refused(state, kData,
                   {"format version " + std::to_string(version),
                    "reads versions 1 to " + std::to_string(kSnapshotVersion)});
}

TEST_F(BadSnapshot, OfAnotherKindOfFile) {
    write_file(here() / "other", std::string(5 << 20, 'x'));
    expect_refused("", kData, {"snap/state.spore"});
    expect_refused(std::string(5 << 20, 'x'), kData, {"snap/state.spore", "bytes"});
    expect_refusal({"--restore", "no/such", "--serial", "none"}, kNone, {"no/such/state.spore"});
    expect_refusal({"--restore", "other", "--serial", "none"}, kNone, {"other/state.spore"});
    expect_refusal({"--restore", "tmp", "--serial", "none"}, kNone, {"tmp/state.spore"});
    stdfs::create_directories(here() / "odd/state.spore");
    expect_refusal({"--restore", "odd", "--serial", "none"}, kData,
                   {"odd/state.spore", "not a regular file"});
}

TEST_F(BadSnapshot, OfAProcessorWithMoreThanThisOne) {
    auto supported = Kvm::open()->supported_cpuid();
    ASSERT_TRUE(supported);
    for (const FeatureWord& word : feature_words()) {
        MachineState state = decoded();
        auto* there = find_cpuid(*supported, word.function, word.index);
        auto* entry = find_cpuid(state.vcpus[0].cpuid, word.function, word.index);
        if (there == nullptr || entry == nullptr || word.function >= 0x4000'0000)
            continue;
        uint32_t here = cpuid_register(*there, word.which) | word.not_the_hosts;
        for (uint32_t bit = 0; bit < 32; bit++) {
            if ((here & (1u << bit)) != 0 || word.names[bit].empty())
                continue;
            cpuid_register(*entry, word.which) |= 1u << bit;
            expect_refused(state, kData, {feature_name(word, bit)});
            break;  // one of each register
        }
    }
    MachineState state = decoded();
    state.cpu_vendor = "SporeProcess";
    expect_refused(state, kData, {"SporeProcess"});
}

TEST_F(BadSnapshot, WhoseMemoryIsOfAnotherSize) {
    for (uint64_t bytes : {0u, 4095u, (64u << 20) - 1, (64u << 20) + 4096}) {
        source_->variant(here() / "snap", state_bytes_);
        stdfs::remove(here() / "snap/memory.img");
        write_file(here() / "snap/memory.img", "");
        stdfs::resize_file(here() / "snap/memory.img", bytes);
        expect_refusal(restore(), kData,
                       {"snap/memory.img", std::to_string(bytes) + " bytes", "67108864"});
    }
}

TEST_F(BadSnapshot, WithAFileMissing) {
    auto without = [&](const char* name, int status) {
        source_->variant(here() / "snap", state_bytes_);
        stdfs::remove(here() / "snap" / name);
        expect_refusal(restore(), status, {std::string("snap/") + name});
        stdfs::create_directory(here() / "snap" / name);
        SCOPED_TRACE("a directory in its place");
        expect_refusal(restore(), name == std::string("disk-0.img") ? kUsage : kData,
                       {std::string("snap/") + name});
    };
    for (const char* name : {"state.spore", "memory.img", "disk-0.img", "disk-0.map"})
        without(name, kNone);
}

TEST_F(BadSnapshot, WithABrokenDiskMap) {
    std::string map = read_file(source_->directory() / "disk-0.map");
    std::mt19937_64 random(test_seed());
    auto refuse = [&](std::string_view bytes) {
        source_->variant(here() / "snap", state_bytes_);
        stdfs::remove(here() / "snap/disk-0.map");
        write_file(here() / "snap/disk-0.map", bytes);
        expect_refusal(restore(), kData, {"snap/disk-0.map"});
    };
    refuse("");
    for (int count = 0; count < 20; count++) {
        refuse(std::string_view(map).substr(0, random() % map.size()));
        std::string flipped = map;
        size_t place = random() % map.size();
        flipped[place] = static_cast<char>(flipped[place] ^ (1 << (random() % 8)));
        refuse(flipped);
    }
}

TEST_F(BadSnapshot, WithABrokenWorkingSet) {
    MachineState state = decoded();
    auto with = [&](const WorkingSet& set) {
        source_->variant(here() / "snap", state_bytes_);
        UniqueFd file(::open(path("snap/working-set.spore").c_str(), O_RDWR | O_CREAT, 0600));
        EXPECT_TRUE(write_working_set(file.get(), set));
    };
    auto refuse = [&](const WorkingSet& set, const std::string& word) {
        with(set);
        expect_refusal(restore(), kData, {"working set", word});
    };
    WorkingSet good = {
        state.memory.image.file_bytes, state.created_unix_ns, {{0, 16, false}, {256, 1, true}}};
    with(good);
    Outcome outcome = start_and_end(launch(restore()));
    EXPECT_TRUE(outcome.ran) << outcome.ended.describe();
    stdfs::remove(here() / "top");

    WorkingSet bad = good;
    bad.runs.push_back({bad.image_bytes / 4096, 1, true});
    refuse(bad, "snap/working-set.spore");
    bad = good;
    bad.created_unix_ns++;
    refuse(bad, "another snapshot");
    bad = good;
    bad.image_bytes += 4096;
    refuse(bad, "another snapshot");
    std::string bytes = read_file(here() / "snap/working-set.spore");
    for (size_t cut : {size_t{0}, size_t{39}, bytes.size() - 1}) {
        write_file(here() / "snap/working-set.spore", bytes.substr(0, cut));
        expect_refusal(restore(), kData, {"snap/working-set.spore", "working set"});
    }
    stdfs::remove(here() / "snap/working-set.spore");
    stdfs::create_directory(here() / "snap/working-set.spore");
    expect_refusal(restore(), kData, {"snap/working-set.spore", "not a regular file"});
}

TEST_F(BadSnapshot, WhoseRegionsOverlapOrWrap) {
    auto with = [&](std::vector<MemoryExtent> extents) {
        MachineState state = decoded();
        state.memory.extents = std::move(extents);
        expect_refused(state, kData, {"memory"});
    };
    constexpr uint64_t kAll = 64ull << 20;
    constexpr uint64_t kHalf = kAll / 2;
    with({});
    with({{GuestAddress(0), kHalf}, {GuestAddress(kHalf - 4096), kHalf}});
    with({{GuestAddress(kHalf), kHalf}, {GuestAddress(0), kHalf}});
    with({{GuestAddress(0), kHalf}, {GuestAddress(~uint64_t{4095}), kHalf}});
    with({{GuestAddress(0), ~uint64_t{4095}}});
    with({{GuestAddress(0), 0}});
    with({{GuestAddress(100), kAll}});
    with({{GuestAddress(0), kAll - 1}});
    with({{GuestAddress(0), kAll + 4096}});
    with({{GuestAddress(uint64_t{1} << 60), kAll}});
    with({{GuestAddress(0), kHalf},
          {GuestAddress(kAll), kHalf / 2},
          {GuestAddress(kAll * 2), kHalf / 2}});
}

// What encode_state() would never write: one number of the table, changed in the file's bytes.
TEST_F(BadSnapshot, WhoseRegionTableLies) {
    constexpr uint64_t kHalf = 32ull << 20;
    MachineState two = decoded();
    two.memory.extents = {{GuestAddress(0), kHalf}, {GuestAddress(3 * kHalf), kHalf}};
    auto payload = encode_state(two);
    enum Field { start, size, image_offset };
    auto lie = [&](uint32_t region, Field field, uint64_t value) {
        SCOPED_TRACE("region " + std::to_string(region) + " field " + std::to_string(field) + ": " +
                     std::to_string(value));
        auto changed = payload;
        const auto* table =
            snapshot::fb::GetMachine(changed.data())->memory()->regions()->Get(region);
        auto place = reinterpret_cast<const std::byte*>(table) - changed.data() + 8 * field;
        std::memcpy(changed.data() + place, &value, sizeof(value));
        std::error_code error;
        stdfs::remove(here() / "encoded", error);
        ASSERT_TRUE(write_state_file(path("encoded"), changed));
        expect_refused(read_file(here() / "encoded"), kData, {"memory"});
    };
    constexpr uint64_t kLast = ~uint64_t{0};
    // Where it is in the image: before, within or behind the other; beyond the file; wrapping.
    for (uint64_t offset : {uint64_t{4096}, kHalf - 4096, 2 * kHalf, kLast - 4095, kLast})
        lie(0, image_offset, offset);
    for (uint64_t offset :
         {uint64_t{0}, kHalf - 4096, kHalf + 1, kHalf + 4096, 2 * kHalf, kLast - kHalf + 1, kLast})
        lie(1, image_offset, offset);
    // Where it is in the guest: in the other, unaligned, beyond all addresses, wrapping.
    for (uint64_t address : {uint64_t{0}, kHalf - 4096, 3 * kHalf + 1, uint64_t{1} << 52,
                             kLast - kHalf + 1, kLast - 4095})
        lie(1, start, address);
    for (uint64_t bytes : {uint64_t{0}, kHalf - 1, kHalf - 4096, kHalf + 4096, kLast - kHalf + 1,
                           kLast - 3 * kHalf + 1, kLast - 4095, kLast}) {
        lie(0, size, bytes);
        lie(1, size, bytes);
    }
}

TEST_F(BadSnapshot, AskedForWhatItHasNot) {
    source_->variant(here() / "snap", state_bytes_);
    expect_refusal(restore({"--disk", "second"}), kUsage, {"disk", "2 given"});
    expect_refusal(restore({"--net", "tap=t"}), kUsage, {"net", "1 given"});
    expect_refusal({"--restore", "snap", "--serial", "none"}, kUsage, {"--vsock"});
    write_file(here() / "top", "somebody's");
    expect_refusal(restore(), kUsage, {"'top'"});
}

}  // namespace
}  // namespace spore::test
