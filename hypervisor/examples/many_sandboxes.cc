// many_sandboxes TEMPLATE [COUNT]: a sandbox for each thread, and one that all of them share.

#include <spore/host.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

spore::Result<std::string> ask(const spore::Sandbox& sandbox, const std::string& line) {
    auto done = sandbox.capture(spore::Command::shell(line));
    if (!done)
        return std::unexpected(done.error());
    while (done->out.ends_with('\n'))
        done->out.pop_back();
    return done->out;
}

// A clone's machine ID, which no other has.
spore::Result<std::string> own_sandbox(const spore::Host& host, const std::string& template_name) {
    const auto sandbox = host.create_sandbox({.template_name = template_name});
    if (!sandbox)
        return std::unexpected(sandbox.error());
    auto machine_id = ask(*sandbox, "cat /etc/machine-id");
    const spore::Status destroyed = sandbox->destroy();
    if (!destroyed)
        return std::unexpected(destroyed.error());
    return machine_id;
}

int run(const std::string& template_name, size_t count) {
    const auto host = spore::Host::open();
    const auto shared = host ? host->create_sandbox({.template_name = template_name})
                             : std::unexpected(host.error());
    if (!shared) {
        std::fprintf(stderr, "%s\n", shared.error().message.c_str());
        return 1;
    }
    std::vector<spore::Result<std::string>> own(count), common(count);
    {
        std::vector<std::jthread> threads;
        for (size_t i = 0; i < count; ++i)
            threads.emplace_back([&, i] {
                own[i] = own_sandbox(*host, template_name);
                common[i] = ask(*shared, "echo thread " + std::to_string(i));
            });
    }
    int failed = 0;
    for (size_t i = 0; i < count; ++i) {
        for (const auto& answer : {own[i], common[i]}) {
            std::printf("%zu: %s\n", i, answer ? answer->c_str() : answer.error().message.c_str());
            failed += answer ? 0 : 1;
        }
    }
    if (!shared->destroy())
        ++failed;
    return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: many_sandboxes TEMPLATE [COUNT]\n");
        return 64;
    }
    return run(argv[1], argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 4);
}
