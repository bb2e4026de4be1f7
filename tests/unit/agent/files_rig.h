#pragma once

// A running agent, its files as a client has them, and a directory to work in.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/agent_files.h"
#include "tests/unit/agent/running_agent.h"
#include "tests/unit/support/scratch_directory.h"
#include "tests/unit/support/small_disk.h"

namespace spore {

namespace fs = std::filesystem;

// In memory where it can be: these tests make files by the thousand.
class FilesDirectory {
  public:
    const std::string& path() const { return path_; }

  private:
    const ScratchDirectory scratch_{"files", ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"};
    const std::string path_ = scratch_.path();
};

class FilesRig : public testing::Test {
  protected:
    void SetUp() override {
        auto made = AgentConnection::over(agent.client());
        ASSERT_TRUE(made) << made.error().message;
        connection = std::move(*made);
        files.emplace(connection);
        fs::create_directory(work);
    }

    std::string at(const std::string& name) const { return work + "/" + name; }
    void put(const std::string& name, std::string_view content) const {
        std::ofstream(at(name), std::ios::binary) << content;
    }
    std::string got(const std::string& name) const {
        std::ifstream file(at(name), std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    // Names in a directory of this machine, sorted.
    std::vector<std::string> names(const std::string& name = "") const {
        std::vector<std::string> found;
        for (const auto& entry : fs::directory_iterator(at(name)))
            found.push_back(entry.path().filename());
        std::ranges::sort(found);
        return found;
    }
    Result<std::string> read(const std::string& path, uint64_t offset = 0, uint64_t length = 0) {
        std::string bytes;
        TRY(files->read(
            {path, offset, length}, [&](auto more) { return collect(bytes, more); }, soon()));
        return bytes;
    }
    static AgentFiles::Source source_of(const std::string& bytes) {
        return [&bytes, done = size_t{0}](std::span<std::byte> room) mutable -> Result<size_t> {
            const size_t count = std::min(room.size(), bytes.size() - done);
            std::memcpy(room.data(), bytes.data() + done, count);
            done += count;
            return count;
        };
    }
    Result<uint64_t> write(const FileWriteSpec& spec, const std::string& bytes) {
        return files->write(spec, source_of(bytes), soon());
    }
    Result<std::vector<FileInfo>> list(const FileListSpec& spec) {
        std::vector<FileInfo> entries;
        TRY(files->list(
            spec,
            [&](FileInfo&& info) -> Status {
                entries.push_back(std::move(info));
                return {};
            },
            soon()));
        return entries;
    }
    static std::vector<std::string> paths(const std::vector<FileInfo>& entries) {
        std::vector<std::string> all;
        for (const FileInfo& info : entries)
            all.push_back(info.path);
        std::ranges::sort(all);
        return all;
    }
    template <typename T>
    static Code code(const Result<T>& result) {
        EXPECT_FALSE(result);
        return result ? Code::internal : result.error().code;
    }
    // Descriptors that the agent has open.
    size_t agent_descriptors() const {
        size_t count = 0;
        for ([[maybe_unused]] const auto& each :
             fs::directory_iterator("/proc/" + std::to_string(agent.pid()) + "/fd"))
            ++count;
        return count;
    }

    RunningAgent agent;
    const FilesDirectory base;
    const std::string& outside = base.path();
    const std::string work = outside + "/work";
    std::shared_ptr<AgentConnection> connection;
    std::optional<AgentFiles> files;
};

}  // namespace spore
