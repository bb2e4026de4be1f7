// copy_files TEMPLATE FILE: a file of this host into a sandbox, sorted there, and back.

#include <fcntl.h>
#include <spore/host.h>
#include <unistd.h>

#include <cstdio>

namespace {

spore::Status copy(const spore::Sandbox& sandbox, const char* path) {
    const auto call = spore::Call::within(std::chrono::minutes(1));
    const spore::Files files = sandbox.files();
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return std::unexpected(spore::Error{spore::Code::not_found, path});
    // Of any size: it is never in memory as a whole.
    const auto written = files.write(
        "/work/input",
        [fd](std::span<std::byte> buffer) -> spore::Result<size_t> {
            const ssize_t count = ::read(fd, buffer.data(), buffer.size());
            if (count < 0)
                return std::unexpected(spore::Error{spore::Code::internal, "read failed"});
            return static_cast<size_t>(count);
        },
        {.parents = true}, call);
    ::close(fd);
    if (!written)
        return std::unexpected(written.error());
    const auto sorted =
        sandbox.run({.argv = {"sort", "-o", "/work/output", "/work/input"}}, {}, call);
    if (!sorted || !sorted->success())
        return std::unexpected(sorted ? spore::Error{spore::Code::internal, "sort failed"}
                                      : sorted.error());
    const auto entries = files.list("/work", false, call);
    if (!entries)
        return std::unexpected(entries.error());
    for (const auto& entry : *entries)
        std::printf("%s: %llu bytes, mode %o\n", entry.path.c_str(),
                    static_cast<unsigned long long>(entry.size), entry.mode);
    const auto output = files.read("/work/output", call);
    if (!output)
        return std::unexpected(output.error());
    std::printf("%s", output->c_str());
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: copy_files TEMPLATE FILE\n");
        return 64;
    }
    const auto host = spore::Host::open();
    const auto sandbox =
        host ? host->create_sandbox({.template_name = argv[1]}) : std::unexpected(host.error());
    spore::Status status = sandbox ? copy(*sandbox, argv[2]) : std::unexpected(sandbox.error());
    if (sandbox) {
        const spore::Status destroyed = sandbox->destroy();
        if (status)
            status = destroyed;
    }
    if (!status)
        std::fprintf(stderr, "%s\n", status.error().message.c_str());
    return status ? 0 : 1;
}
