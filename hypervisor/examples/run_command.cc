// run_command TEMPLATE COMMAND...: clones a template, runs one command in the clone, and tells all
// that it wrote and what became of it.

#include <spore/host.h>

#include <cstdio>

namespace {

spore::Status run(const std::string& template_name, const std::vector<std::string>& argv) {
    const auto host = spore::Host::open();
    if (!host)
        return std::unexpected(host.error());
    const auto sandbox = host->create_sandbox({.template_name = template_name});
    if (!sandbox)
        return std::unexpected(sandbox.error());
    // A minute at most, for the command and all that is around it.
    const auto done =
        sandbox->capture({.argv = argv}, spore::Call::within(std::chrono::minutes(1)));
    if (done) {
        std::printf("%s%s", done->out.c_str(), done->err.c_str());
        std::printf("status %d, %.1f ms of CPU, %.1f MiB of memory\n", done->exit.status,
                    static_cast<double>(done->exit.cpu.count()) / 1000,
                    static_cast<double>(done->exit.peak_memory_bytes) / (1 << 20));
    }
    const spore::Status destroyed = sandbox->destroy();
    return done ? destroyed : std::unexpected(done.error());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: run_command TEMPLATE COMMAND...\n");
        return 64;
    }
    const spore::Status status = run(argv[1], {argv + 2, argv + argc});
    if (!status)
        std::fprintf(stderr, "%s: %s\n", std::string(code_name(status.error().code)).c_str(),
                     status.error().message.c_str());
    return status ? 0 : 1;
}
