#include "hypervisor/sandbox/handover.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "hypervisor/base/small_file.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {
constexpr const char* kHandoverFile = "handover";
constexpr size_t kHandoverBytesMax = 1024;
constexpr size_t kVersionBytesMax = 256;
}  // namespace

// PID, its start, protocol (0: no connection is carried), highest stream, the agent's version; in
// a line of their own the network's words.
Status write_handover(const std::filesystem::path& directory, const Handover& handover) {
    AgentCarried agent = handover.agent.value_or(AgentCarried{0, "-", 0});
    char line[kHandoverBytesMax];
    int size = std::snprintf(line, sizeof(line), "%d %llu %u %u %s\n", handover.process.pid,
                             static_cast<unsigned long long>(handover.process.start_ticks),
                             agent.protocol, agent.last_stream, agent.version.c_str());
    std::string path = directory / kHandoverFile;
    if (size <= 0 || static_cast<size_t>(size) >= sizeof(line) - 2)
        return fail(Code::internal,
                    path + ": more than " + std::to_string(sizeof(line)) + " bytes");
    std::string text(line, static_cast<size_t>(size));
    bool fits = text.size() + handover.network.size() + 1 < kHandoverBytesMax;
    text += (fits ? handover.network : kTooLongToCarry) + "\n";
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path);
    auto written = write_all(file.get(), path, text);
    if (!written)
        ::unlink(path.c_str());  // on a full disk, half of it
    return written;
}

Result<Handover> read_handover(const std::filesystem::path& directory) {
    std::string path = directory / kHandoverFile;
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    char line[kHandoverBytesMax] = {};
    if (!file || ::read(file.get(), line, sizeof(line) - 1) < 0)
        return fail_errno(path);
    Handover handover;
    AgentCarried agent;
    unsigned protocol = 0;
    unsigned long long ticks = 0;
    char version[kVersionBytesMax] = {};
    const std::string_view text = line;
    size_t first = text.find('\n');
    bool whole = first != std::string_view::npos && text.find('\n', first + 1) == text.size() - 1;
    if (!whole || std::sscanf(line, "%d %llu %u %u %255s", &handover.process.pid, &ticks, &protocol,
                              &agent.last_stream, version) != 5)
        return fail(Code::corrupt, path + ": is no hand-over");
    handover.process.start_ticks = ticks;
    if (protocol != 0) {
        agent.protocol = static_cast<uint16_t>(protocol);
        agent.version = version;
        handover.agent = agent;
    }
    handover.network = text.substr(first + 1, text.size() - first - 2);
    return handover;
}

}  // namespace spore
