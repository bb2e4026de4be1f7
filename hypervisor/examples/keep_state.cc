// keep_state TEMPLATE: a shell and a Python interpreter in a sandbox that keep what they are told
// from one line to the next, and a tree of files that comes out of it.

#include <spore/host.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace {

spore::Status use_session(const spore::Sandbox& sandbox, const spore::Call& call) {
    const auto session = sandbox.create_session({.name = "work", .cwd = "/tmp"}, call);
    if (!session)
        return std::unexpected(session.error());
    for (const char* line : {"mkdir -p out && cd out", "export GREETING=hello",
                             "echo \"$GREETING from $PWD\" | tee note"}) {
        const auto done = session->capture(line, call);
        if (!done)
            return std::unexpected(done.error());
        std::printf("%s", done->out.c_str());
    }
    return session->remove(call);
}

spore::Status use_context(const spore::Sandbox& sandbox, const spore::Call& call) {
    const auto python = sandbox.create_context({.name = "python", .cwd = "/tmp/out"}, call);
    if (!python)
        return std::unexpected(python.error());
    for (const char* code : {"x = 6", "open('answer', 'w').write(str(x * 7)); x * 7", "x / 0"}) {
        // Not longer than a minute, whatever the call has left.
        const auto ran = python->run(code, {}, std::chrono::minutes(1), call);
        if (!ran)
            return std::unexpected(ran.error());
        if (ran->value)
            std::printf("%s\n", ran->value->at("text/plain").c_str());
        if (ran->error)
            std::printf("%s: %s\n", ran->error->name.c_str(), ran->error->value.c_str());
    }
    return python->remove(call);
}

spore::Status run(const spore::Sandbox& sandbox) {
    const auto call = spore::Call::within(std::chrono::minutes(2));
    if (const auto used = use_session(sandbox, call); !used)
        return used;
    if (const auto used = use_context(sandbox, call); !used)
        return used;
    std::string target = "/tmp/keep_state-XXXXXX";
    if (::mkdtemp(target.data()) == nullptr)
        return std::unexpected(spore::Error{spore::Code::internal, "mkdtemp failed"});
    const auto counts = sandbox.files().copy_out("/tmp/out/.", target, {}, call);
    std::error_code error;
    std::filesystem::remove_all(target, error);
    if (!counts)
        return std::unexpected(counts.error());
    std::printf("%llu files, %llu bytes\n", static_cast<unsigned long long>(counts->files),
                static_cast<unsigned long long>(counts->bytes));
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: keep_state TEMPLATE\n");
        return 64;
    }
    const auto host = spore::Host::open();
    // Cloning it is a call as well, and could be stopped from another thread.
    const auto sandbox = host ? host->create_sandbox({.template_name = argv[1]},
                                                     spore::Call::within(std::chrono::minutes(1)))
                              : std::unexpected(host.error());
    spore::Status status = sandbox ? run(*sandbox) : std::unexpected(sandbox.error());
    if (sandbox) {
        const spore::Status destroyed = sandbox->destroy();
        if (status)
            status = destroyed;
    }
    if (!status)
        std::fprintf(stderr, "%s\n", status.error().message.c_str());
    return status ? 0 : 1;
}
