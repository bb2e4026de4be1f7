#include "hypervisor/sandbox/guest.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <thread>

#include "hypervisor/sandbox/vmm_client.h"

namespace spore {

using Clock = std::chrono::steady_clock;

Result<AgentClient> connect_agent(const std::filesystem::path& run_directory,
                                  Clock::time_point deadline) {
    auto pause = std::chrono::milliseconds(2);
    for (;;) {
        auto agent = AgentClient::connect(run_directory / kVsockName, kAgentPort, deadline);
        if (agent || agent.error().code != Code::unavailable)
            return agent;
        // Not up yet, or never to come: the VMM's other socket tells.
        if (!connect_unix(run_directory, kControlName, SOCK_SEQPACKET))
            return fail(Code::unavailable, "the VM has ended");
        if (Clock::now() + pause >= deadline)
            return fail(Code::timeout, "agent: did not answer in time: " + agent.error().message);
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, std::chrono::milliseconds(50));
    }
}

uint64_t allocated_bytes(const std::filesystem::path& path) {
    struct stat status = {};
    if (::stat(path.c_str(), &status) != 0)
        return 0;
    return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace spore
