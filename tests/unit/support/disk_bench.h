#pragma once

// A directory of disk files, a loop, and requests that are waited for: what disk tests need.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "devices/block/disk.h"
#include "devices/block/layer_map.h"
#include "hypervisor/io/event_loop.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore::test {

using Bytes = std::vector<std::byte>;

class DiskBench : public testing::Test {
  protected:
    ~DiskBench() override { loop->drain(); }

    bool until(const std::function<bool()>& done) {
        return loop->run_until(done, std::chrono::seconds(60));
    }

    std::string path(const std::string& name) const { return directory / name; }
    std::string make_file(const std::string& name, std::span<const std::byte> bytes) const {
        std::ofstream file(path(name), std::ios::binary);
        file.write(reinterpret_cast<const char*>(bytes.data()),
                   static_cast<std::streamsize>(bytes.size()));
        EXPECT_TRUE(file.good());
        return path(name);
    }
    Bytes file_content(const std::string& name) const {
        std::ifstream file(path(name), std::ios::binary);
        std::string text((std::istreambuf_iterator<char>(file)), {});
        auto bytes = std::as_bytes(std::span(text));
        return {bytes.begin(), bytes.end()};
    }
    static Bytes pattern(size_t size, unsigned seed) {
        std::mt19937 random(seed);
        Bytes bytes(size);
        for (std::byte& byte : bytes)
            byte = static_cast<std::byte>(random());
        return bytes;
    }

    template <typename Start>
    int32_t wait_for(Start start) {
        std::optional<int32_t> result;
        DiskRequest request([&](int32_t value) { result = value; });
        start(request);
        EXPECT_FALSE(result.has_value()) << "ended from inside the call";
        EXPECT_TRUE(until([&] { return result.has_value(); }));
        return *result;
    }
    int32_t read(Disk& disk, uint64_t offset, Bytes& bytes) {
        iovec buffer = {bytes.data(), bytes.size()};
        return wait_for(
            [&](DiskRequest& request) { disk.read(std::span(&buffer, 1), offset, request); });
    }
    int32_t write(Disk& disk, uint64_t offset, Bytes bytes) {
        iovec buffer = {bytes.data(), bytes.size()};
        return wait_for(
            [&](DiskRequest& request) { disk.write(std::span(&buffer, 1), offset, request); });
    }
    int32_t flush(Disk& disk) {
        return wait_for([&](DiskRequest& request) { disk.flush(request); });
    }
    int32_t discard(Disk& disk, uint64_t offset, uint64_t size) {
        return wait_for([&](DiskRequest& request) { disk.discard(offset, size, request); });
    }
    int32_t zero(Disk& disk, uint64_t offset, uint64_t size, bool unmap) {
        return wait_for(
            [&](DiskRequest& request) { disk.write_zeroes(offset, size, unmap, request); });
    }
    Bytes content(Disk& disk, uint64_t offset, uint64_t size) {
        Bytes bytes(size, std::byte{0xee});
        EXPECT_EQ(read(disk, offset, bytes), 0);
        return bytes;
    }

    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    const ScratchDirectory scratch{"disk"};
    const std::filesystem::path& directory = scratch.path();
};

}  // namespace spore::test
