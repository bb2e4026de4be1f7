// stream_output TEMPLATE: a command's output as it comes, until this program has seen enough and
// cancels it from another thread.

#include <spore/host.h>

#include <cstdio>
#include <thread>

namespace {

constexpr int kLinesWanted = 5;

spore::Status stream(const spore::Sandbox& sandbox) {
    std::stop_source stop;
    int lines = 0;
    spore::Streams streams;
    streams.started = [](int pid) { std::printf("runs as PID %d of the guest\n", pid); };
    streams.out = [&](std::span<const std::byte> bytes) -> spore::Status {
        for (const std::byte byte : bytes) {
            if (lines < kLinesWanted)
                std::putchar(static_cast<char>(byte));
            if (byte == std::byte{'\n'} && ++lines == kLinesWanted)
                std::jthread([&] { stop.request_stop(); });
        }
        return {};
    };
    const auto ended = sandbox.run(
        spore::Command::shell("i=0; while :; do i=$((i + 1)); echo line $i; sleep 0.01; done"),
        streams, {.stop = stop.get_token()});
    if (ended)
        return std::unexpected(spore::Error{spore::Code::internal, "it ended by itself"});
    std::printf("after %d lines: %s\n", kLinesWanted,
                std::string(code_name(ended.error().code)).c_str());
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: stream_output TEMPLATE\n");
        return 64;
    }
    const auto host = spore::Host::open();
    const auto sandbox =
        host ? host->create_sandbox({.template_name = argv[1]}) : std::unexpected(host.error());
    spore::Status status = sandbox ? stream(*sandbox) : std::unexpected(sandbox.error());
    if (sandbox) {
        const spore::Status destroyed = sandbox->destroy();
        if (status)
            status = destroyed;
    }
    if (!status)
        std::fprintf(stderr, "%s\n", status.error().message.c_str());
    return status ? 0 : 1;
}
