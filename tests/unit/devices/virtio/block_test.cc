#include "devices/virtio/block.h"

#include "tests/unit/support/block_bench.h"

namespace spore {
namespace {

using test::bit;
using test::Buffer;
using test::Bytes;
using test::bytes_of;
using BlockTest = test::BlockBench;

TEST_F(BlockTest, GrowsAndTellsItsDriverOnceThatRuns) {
    BlockConfig config;
    config.path = path("top");
    config.base_path = make_file("base", model);
    config.copy_on_write = config.create = true;
    start(config);
    auto capacity = [&] {
        uint64_t sectors = 0;
        device->read_config(offsetof(virtio_blk_config, capacity),
                            std::as_writable_bytes(std::span(&sectors, 1)));
        return sectors;
    };
    ASSERT_EQ(capacity(), 128u);
    auto write_at = [&](uint64_t sector) {
        return ask({header(VIRTIO_BLK_T_OUT, sector), driver().readable(Bytes(512))}).status;
    };
    EXPECT_EQ(write_at(128), VIRTIO_BLK_S_IOERR);
    ASSERT_TRUE(device->grow(256 * 512).has_value());
    EXPECT_EQ(line.config, 1u);
    EXPECT_EQ(capacity(), 256u);
    EXPECT_EQ(write_at(255), VIRTIO_BLK_S_OK);
    EXPECT_EQ(write_at(256), VIRTIO_BLK_S_IOERR);
    ASSERT_TRUE(device->grow(256 * 512).has_value());
    EXPECT_FALSE(device->grow(128 * 512).has_value());
    EXPECT_EQ(line.config, 1u) << "nothing is new";
    bool quiet = false;
    device->quiesce([&] { quiet = true; });
    ASSERT_TRUE(until([&] { return quiet; }));
    ASSERT_TRUE(device->grow(512 * 512).has_value());
    EXPECT_EQ(line.config, 1u);
    device->resume();
    EXPECT_EQ(line.config, 2u);
    EXPECT_EQ(capacity(), 512u);
}

TEST_F(BlockTest, AnnouncesItsDisk) {
    start();
    EXPECT_EQ(device->device_id(), 2);
    virtio_blk_config config = {};
    device->read_config(0, std::as_writable_bytes(std::span(&config, 1)));
    EXPECT_EQ(config.capacity, 128u);
    EXPECT_EQ(config.blk_size, 512u);
    EXPECT_EQ(config.seg_max, 254u);
    EXPECT_EQ(config.num_queues, 1u);
    EXPECT_EQ(config.max_discard_seg, 16u);
    EXPECT_TRUE(device->has_feature(VIRTIO_BLK_F_FLUSH));
    EXPECT_TRUE(device->has_feature(VIRTIO_BLK_F_DISCARD));
    EXPECT_FALSE(device->has_feature(VIRTIO_BLK_F_RO));
    EXPECT_FALSE(device->has_feature(VIRTIO_BLK_F_MQ));
    std::array<std::byte, 16> tail;
    device->read_config(sizeof(config) - 8, tail);
    EXPECT_EQ(tail[15], std::byte{0});
    device->read_config(0xffff'fff0, tail);
    EXPECT_EQ(tail[0], std::byte{0});
}

TEST_F(BlockTest, ReadsAndWritesSectors) {
    start();
    Buffer one = driver().writable(512), two = driver().writable(1024);
    Answer answer = ask({header(VIRTIO_BLK_T_IN, 3), one, two});
    EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(answer.written, 1537u);
    EXPECT_TRUE(std::ranges::equal(driver().contents(one), std::span(model).subspan(1536, 512)));
    EXPECT_TRUE(std::ranges::equal(driver().contents(two), std::span(model).subspan(2048, 1024)));

    Bytes text = pattern(1024, 2);
    answer = ask({header(VIRTIO_BLK_T_OUT, 126), driver().readable(text)});
    EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(answer.written, 1u);
    std::ranges::copy(text, model.end() - 1024);
    EXPECT_EQ(read_all(), model);
    EXPECT_EQ(device->statistics().reads, 2u);
    EXPECT_EQ(device->statistics().written_bytes, 1024u);
    EXPECT_EQ(device->counters().guest_errors, 0u);
}

TEST_F(BlockTest, TakesAnyFramingOfHeaderDataAndStatus) {
    start();
    // virtio 1.2 §2.7.4.1: header and data in one descriptor, data and status in one.
    virtio_blk_outhdr out = {VIRTIO_BLK_T_OUT, 0, 5};
    Bytes text = pattern(512, 3);
    Bytes whole(sizeof(out) + text.size());
    std::memcpy(whole.data(), &out, sizeof(out));
    std::ranges::copy(text, whole.begin() + sizeof(out));
    EXPECT_EQ(ask({driver().readable(whole)}).status, VIRTIO_BLK_S_OK);
    std::ranges::copy(text, model.begin() + 5 * 512);

    virtio_blk_outhdr in = {VIRTIO_BLK_T_IN, 0, 4};
    auto in_bytes = bytes_of(in);
    Buffer odd = driver().writable(1001);
    Buffer rest = driver().writable(512 * 2 - 1001 + 1);
    driver().add(
        {driver().readable(in_bytes.first(7)), driver().readable(in_bytes.subspan(7)), odd, rest});
    device->kick();
    ASSERT_TRUE(until([&] { return driver().take_used().has_value(); }));
    Bytes got = driver().contents(odd);
    Bytes more = driver().contents(rest);
    EXPECT_EQ(more.back(), std::byte{VIRTIO_BLK_S_OK});
    got.insert(got.end(), more.begin(), more.end() - 1);
    EXPECT_TRUE(std::ranges::equal(got, std::span(model).subspan(4 * 512, 1024)));
}

TEST_F(BlockTest, FlushesAndTellsItsId) {
    start();
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_FLUSH)}).status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(device->statistics().flushes, 1u);
    Buffer id = driver().writable(20);
    Answer answer = ask({header(VIRTIO_BLK_T_GET_ID), id});
    EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(answer.written, 21u);
    EXPECT_EQ(driver().text(id), std::string("serial-1") + std::string(12, '\0'));
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_GET_ID), driver().writable(19)}).status, VIRTIO_BLK_S_IOERR);
}

TEST_F(BlockTest, DiscardsAndWritesZeros) {
    start();
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 1, 2).status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(
        ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 16, 9, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP).status,
        VIRTIO_BLK_S_OK);
    std::fill_n(model.begin() + 512, 1024, std::byte{0});
    std::fill_n(model.begin() + 16 * 512, 9 * 512, std::byte{0});
    EXPECT_EQ(read_all(), model);
    int status = ask_range(VIRTIO_BLK_T_DISCARD, 64, 8).status;
    if (status == VIRTIO_BLK_S_UNSUPP)
        GTEST_SKIP() << "the file system of " << directory << " cannot punch holes";
    EXPECT_EQ(status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(device->counters().guest_errors, 0u);
}

TEST_F(BlockTest, TakesSeveralRangesInOneRequest) {
    start();
    std::array<virtio_blk_discard_write_zeroes, 16> ranges = {};
    for (unsigned index = 0; index < 16; index++) {
        ranges[index] = {index * 8, index % 3, 0};  // one in three is empty
        std::fill_n(model.begin() + index * 8 * 512, index % 3 * 512, std::byte{0});
    }
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_WRITE_ZEROES), driver().readable(bytes_of(ranges))}).status,
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(read_all(), model);
    std::array<virtio_blk_discard_write_zeroes, 17> many = {};
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_WRITE_ZEROES), driver().readable(bytes_of(many))}).status,
              VIRTIO_BLK_S_IOERR);
}

TEST_F(BlockTest, RefusesRangesBeyondTheirBounds) {
    start();
    const uint32_t types[] = {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES};
    for (uint32_t type : types) {
        EXPECT_EQ(ask_range(type, 128, 1).status, VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(ask_range(type, 120, 9).status, VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(ask_range(type, ~uint64_t{0}, 1).status, VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(ask_range(type, uint64_t{1} << 55, 1).status, VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(ask_range(type, 0, ~uint32_t{0}).status, VIRTIO_BLK_S_IOERR);
        EXPECT_EQ(ask_range(type, 0, 8, 2).status, VIRTIO_BLK_S_UNSUPP) << "a reserved flag";
        EXPECT_EQ(ask({header(type)}).status, VIRTIO_BLK_S_IOERR) << "no range";
        EXPECT_EQ(ask({header(type), driver().readable(bytes_of(uint64_t{0}))}).status,
                  VIRTIO_BLK_S_IOERR)
            << "half a range";
        // One good range before a bad one: nothing is done.
        std::array<virtio_blk_discard_write_zeroes, 2> two = {{{0, 8, 0}, {128, 8, 0}}};
        EXPECT_EQ(ask({header(type), driver().readable(bytes_of(two))}).status, VIRTIO_BLK_S_IOERR);
    }
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_DISCARD, 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP).status,
              VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(device->counters().guest_errors, 19u);
    EXPECT_EQ(line.failures, 0u);
    EXPECT_EQ(read_all(), model);
}

TEST_F(BlockTest, DiscardLimitsHoldOnADiskThatIsLargeEnough) {
    BlockConfig config;
    config.path = path("large");
    config.copy_on_write = config.create = true;
    config.bytes = 8 * limits::kGiB;
    start(config);
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_DISCARD, 8, VirtioBlock::kDiscardSectorsMax).status,
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_DISCARD, 8, VirtioBlock::kDiscardSectorsMax + 1).status,
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 8, VirtioBlock::kWriteZeroesSectorsMax).status,
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(
        ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 8, VirtioBlock::kWriteZeroesSectorsMax + 1).status,
        VIRTIO_BLK_S_IOERR);
}

TEST_F(BlockTest, RefusesSectorsBeyondTheEnd) {
    start();
    const uint64_t sectors[] = {128,
                                129,
                                uint64_t{1} << 32,
                                uint64_t{1} << 54,
                                (uint64_t{1} << 55) - 1,
                                uint64_t{1} << 55,
                                (uint64_t{1} << 55) + 1,  // its byte offset wraps to 512
                                ~uint64_t{0},
                                ~uint64_t{0} - 1};
    for (uint64_t sector : sectors) {
        Answer answer = ask({header(VIRTIO_BLK_T_IN, sector), driver().writable(512)});
        EXPECT_EQ(answer.status, VIRTIO_BLK_S_IOERR) << sector;
        EXPECT_EQ(answer.written, 1u);
        EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT, sector), driver().readable(Bytes(512))}).status,
                  VIRTIO_BLK_S_IOERR);
    }
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN, 127), driver().writable(1024)}).status,
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN, 127), driver().writable(512)}).status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(read_all(), model);
    EXPECT_EQ(device->counters().guest_errors, 19u);
    EXPECT_EQ(device->counters().host_errors, 0u);
    EXPECT_EQ(line.failures, 0u);
}

TEST_F(BlockTest, MalformedRequestsFailAloneAndAreCounted) {
    start();
    EXPECT_EQ(ask({}).status, VIRTIO_BLK_S_IOERR) << "no header";
    EXPECT_EQ(ask({driver().readable(bytes_of(uint64_t{0}))}).status, VIRTIO_BLK_S_IOERR)
        << "half a header";
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN)}).status, VIRTIO_BLK_S_IOERR) << "no data";
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT)}).status, VIRTIO_BLK_S_IOERR) << "no data";
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN), driver().writable(511)}).status, VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT), driver().readable(Bytes(700))}).status,
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT), driver().writable(512)}).status, VIRTIO_BLK_S_IOERR)
        << "data in the wrong direction";
    const uint32_t types[] = {2, 3, 5, 7, 9, 10, 12, 14, 99, 0x80000000, ~0u};
    for (uint32_t type : types)
        EXPECT_EQ(ask({header(type), driver().writable(512)}).status, VIRTIO_BLK_S_UNSUPP) << type;
    EXPECT_EQ(device->counters().guest_errors, 7u + std::size(types));
    EXPECT_EQ(line.failures, 0u);
    EXPECT_EQ(read_all(), model) << "it goes on working";
}

TEST_F(BlockTest, ARequestWithoutRoomForItsStatusFailsTheDevice) {
    start();
    driver().add({header(VIRTIO_BLK_T_FLUSH)});
    device->kick();
    expect_failed(1);
    driver().add({header(VIRTIO_BLK_T_FLUSH), driver().writable(1)});
    device->kick();
    settle();
    EXPECT_EQ(driver().used_index(), 0u) << "it does nothing until it is reset";
    reset();
    activate();
    EXPECT_EQ(read_all(), model);
}

TEST_F(BlockTest, ABrokenQueueFailsTheDeviceWhileRequestsAreInFlight) {
    start();
    driver().add({header(VIRTIO_BLK_T_IN), driver().writable(512), driver().writable(1)});
    driver().publish(999);
    device->kick();
    expect_failed(1);
    EXPECT_TRUE(until([&] { return driver().used_index() == 1; })) << "what was begun ends";
    reset();
    activate();
    EXPECT_EQ(read_all(), model);
}

TEST_F(BlockTest, ReadOnlyDisksRefuseWrites) {
    BlockConfig config;
    config.path = make_file("disk", model);
    config.read_only = true;
    start(config);
    EXPECT_TRUE(device->has_feature(VIRTIO_BLK_F_RO));
    EXPECT_FALSE(device->offered_features() & bit(VIRTIO_BLK_F_DISCARD));
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT), driver().readable(Bytes(512))}).status,
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_DISCARD, 0, 8).status, VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8).status, VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_FLUSH)}).status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(read_all(), model);
    EXPECT_EQ(file_content("disk"), model);
}

TEST_F(BlockTest, RequestsOfFeaturesNotTakenAreUnsupported) {
    start({}, bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES) | bit(VIRTIO_BLK_F_FLUSH));
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_DISCARD, 0, 8).status, VIRTIO_BLK_S_UNSUPP);
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8).status, VIRTIO_BLK_S_UNSUPP);
    Bytes text = pattern(512, 2);  // written through, as the driver cannot flush
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT), driver().readable(text)}).status, VIRTIO_BLK_S_OK);
    std::ranges::copy(text, model.begin());
    EXPECT_EQ(read_all(), model);
}

TEST_F(BlockTest, AHostErrorFailsTheRequestAndIsCounted) {
    start();
    std::filesystem::resize_file(path("disk"), 4096);
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN, 64), driver().writable(512)}).status,
              VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(device->counters().host_errors, 1u);
    EXPECT_EQ(device->counters().guest_errors, 0u);
    EXPECT_EQ(device->first_host_error(), EIO);
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_IN, 0), driver().writable(512)}).status, VIRTIO_BLK_S_OK);
}

TEST_F(BlockTest, WorksOverACopyOnWriteDisk) {
    BlockConfig config;
    config.base_path = make_file("base", model);
    config.path = path("top");
    config.create = true;
    start(config);
    Bytes text = pattern(1024, 5);
    EXPECT_EQ(ask({header(VIRTIO_BLK_T_OUT, 7), driver().readable(text)}).status, VIRTIO_BLK_S_OK);
    std::ranges::copy(text, model.begin() + 7 * 512);
    EXPECT_EQ(ask_range(VIRTIO_BLK_T_DISCARD, 32, 8).status, VIRTIO_BLK_S_OK);
    std::fill_n(model.begin() + 32 * 512, 8 * 512, std::byte{0});
    EXPECT_EQ(read_all(), model);
}

TEST_F(BlockTest, RefusesBadConfigurations) {
    BlockConfig config;
    config.path = make_file("disk", model);
    for (uint16_t queues : {uint16_t{0}, uint16_t{5}}) {
        config.queues = queues;
        auto made = VirtioBlock::create(memory, *loop, config);
        ASSERT_FALSE(made.has_value());
        EXPECT_EQ(made.error().code, Code::invalid_argument);
        EXPECT_NE(made.error().message.find("queues"), std::string::npos);
    }
    config.queues = 1;
    config.id = "longer than twenty bytes";
    auto made = VirtioBlock::create(memory, *loop, config);
    ASSERT_FALSE(made.has_value());
    EXPECT_NE(made.error().message.find("id"), std::string::npos);
}

}  // namespace
}  // namespace spore
