// limit_use TEMPLATE: a sandbox that may have 20 processes and half a processor, and then more;
// tells what it uses.

#include <spore/host.h>

#include <cinttypes>
#include <cstdio>

namespace {

spore::Status tell(const spore::Sandbox& sandbox, int processes) {
    const auto done = sandbox.capture(
        spore::Command::shell("for i in $(seq 40); do sleep 60 & done; kill $(jobs -p)"),
        spore::Call::within(std::chrono::minutes(1)));
    if (!done)
        return std::unexpected(done.error());
    std::printf("with %d processes: %s\n", processes,
                done->err.find("fork") == std::string::npos ? "started" : "refused");
    return {};
}

spore::Status use(const spore::Sandbox& sandbox) {
    if (spore::Status told = tell(sandbox, 20); !told)
        return told;
    // What has no value stays: half a processor.
    const auto missing = sandbox.update(spore::Limits{.processes = 200});
    if (!missing)
        return std::unexpected(missing.error());
    for (const auto& each : *missing)
        std::fprintf(stderr, "%s is not enforced: %s\n", each.name.c_str(), each.why.c_str());
    if (spore::Status told = tell(sandbox, 200); !told)
        return told;
    const auto usage = sandbox.usage();
    if (!usage)
        return std::unexpected(usage.error());
    if (usage->guest)
        std::printf("a disk of %" PRIu64 " MiB, %" PRIu64 " processes of at most %" PRIu64 "\n",
                    usage->disk_bytes_max >> 20, usage->guest->processes,
                    usage->guest->processes_max);
    return {};
}

spore::Status run(const std::string& template_name) {
    const auto host = spore::Host::open();
    if (!host)
        return std::unexpected(host.error());
    const auto sandbox = host->create_sandbox(
        {.template_name = template_name, .limits = {.cpus = 0.5, .processes = 20}});
    if (!sandbox)
        return std::unexpected(sandbox.error());
    const spore::Status used = use(*sandbox);
    const spore::Status destroyed = sandbox->destroy();
    return used ? destroyed : used;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: limit_use TEMPLATE\n");
        return 64;
    }
    const spore::Status status = run(argv[1]);
    if (!status)
        std::fprintf(stderr, "%s: %s\n", std::string(code_name(status.error().code)).c_str(),
                     status.error().message.c_str());
    return status ? 0 : 1;
}
