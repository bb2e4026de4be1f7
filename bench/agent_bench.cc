// spore-agent-bench: what the agent adds to what the guest itself can do, in one sandbox on a
// /dev/kvm that runs Linux (tests/bed): commands beside fork + exec + wait in the guest, files
// beside a bare vsock stream, output beside a round trip, memory. Rounds are interleaved. bench/run
// makes figures of the samples.

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <thread>

#include "bench/samples.h"
#include "hypervisor/base/agent_limits.h"
#include "hypervisor/base/clock.h"
#include "hypervisor/sandbox/agent_connection.h"
#include "hypervisor/sandbox/agent_files.h"
#include "hypervisor/sandbox/exec_capture.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/sandbox.h"
#include "hypervisor/sandbox/vmm_client.h"

namespace spore::bench {
namespace {

struct Options {
    std::string image = "e2e", kernel = "tuned", probe, out;
    int rounds = 20;
    uint64_t mib = 1024;  // through each of the streams, in all
};

constexpr unsigned kMemoryMib = 512;
constexpr unsigned kProbePort = 7777;
constexpr const char* kProbe = "/usr/local/bin/spore-probe";
constexpr int kExecsARound = 10;
constexpr int kClockSamples = 50;

AgentClient::Deadline in_seconds(int seconds) {
    return std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
}

double us_since(uint64_t begun_ns) {
    return static_cast<double>(monotonic_ns() - begun_ns) / 1000;
}

// The probe's end of a bare stream through the VMM's vsock.
class BareStream {
  public:
    static Result<BareStream> connect(const std::filesystem::path& directory) {
        auto limit = in_seconds(60);
        while (true) {
            UniqueFd socket = TRY(connect_unix(directory, kVsockName, SOCK_STREAM));
            BareStream stream(std::move(socket));
            const std::string line = "CONNECT " + std::to_string(kProbePort) + "\n";
            TRY(stream.send(line.data(), line.size()));
            std::string answer;
            char byte = 0;
            while (stream.receive(&byte, 1) && byte != '\n')
                answer += byte;
            if (answer.starts_with("OK "))
                return stream;
            if (std::chrono::steady_clock::now() > limit)
                return fail(Code::timeout, "probe: does not listen");
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
    }

    Status order(char what, uint64_t count) {
        char words[9] = {what};
        std::memcpy(words + 1, &count, sizeof(count));
        return send(words, sizeof(words));
    }
    Status send(const void* bytes, size_t count) {
        const char* at = static_cast<const char*>(bytes);
        while (count > 0) {
            const ssize_t sent = ::send(socket_.get(), at, count, MSG_NOSIGNAL);
            if (sent <= 0)
                return fail_errno("bare stream: send");
            at += sent;
            count -= static_cast<size_t>(sent);
        }
        return {};
    }
    Status receive(void* bytes, size_t count) {
        char* at = static_cast<char*>(bytes);
        while (count > 0) {
            const ssize_t got = ::recv(socket_.get(), at, count, 0);
            if (got <= 0)
                return fail(Code::unavailable, "bare stream: ended");
            at += got;
            count -= static_cast<size_t>(got);
        }
        return {};
    }

  private:
    explicit BareStream(UniqueFd socket) : socket_(std::move(socket)) {}
    UniqueFd socket_;
};

// One sandbox and what is measured in it.
class AgentBench {
  public:
    AgentBench(const Options& options, std::shared_ptr<AgentConnection> agent,
               std::filesystem::path directory)
        : options_(options),
          agent_(std::move(agent)),
          files_(agent_),
          directory_(std::move(directory)),
          piece_(limits::kFrameChunkBytes, std::byte{'p'}) {}

    Status run() {
        TRY(measure_memory("agent_rss_first_kib"));
        TRY(put_probe());
        std::fprintf(stderr, "phase commands and round trips\n");
        for (int round = 0; round < options_.rounds; round++) {
            TRY(measure_commands());
            std::fprintf(stderr, "progress %d %d\n", round + 1, options_.rounds);
        }
        // On a connection of its own: whoever waits on one reads for all who use it.
        auto other = TRY(
            AgentConnection::connect(directory_ / kVsockName, limits::kAgentPort, in_seconds(60)));
        std::jthread server([&other] {  // ends with its connection
            (void)other->exec({.argv = {kProbe, "serve", std::to_string(kProbePort)}}, {},
                              AgentClient::Deadline::max());
        });
        const Status measured = measure_streams();
        const Status remembered = measured ? measure_memory("agent_rss_kib") : Status();
        other->close();
        TRY(Status(measured));
        return remembered;
    }

  private:
    Status put_probe() {
        const UniqueFd probe(::open(options_.probe.c_str(), O_RDONLY | O_CLOEXEC));
        if (!probe)
            return fail_errno(options_.probe);
        FileWriteSpec spec = {.path = kProbe, .mode = 0755, .parents = true};
        TRY(files_.write(spec, probe.get(), in_seconds(120)));
        return {};
    }

    Result<std::string> output_of(std::vector<std::string> argv) {
        ExecCapture capture;
        auto done =
            TRY(agent_->exec({.argv = std::move(argv)}, capture.streams(), in_seconds(300)));
        if (done.exit_status != 0)
            return fail(Code::internal, "probe: exit status " + std::to_string(done.exit_status) +
                                            " " + done.message + capture.err().bytes);
        return capture.out().bytes;
    }

    Status measure_commands() {
        const std::string times = TRY(output_of({kProbe, "loop", std::to_string(kExecsARound)}));
        for (size_t at = 0; at < times.size(); at = times.find('\n', at) + 1)
            samples().add("agent_guest_exec", std::strtod(times.c_str() + at, nullptr) / 1000);
        for (int each = 0; each < kExecsARound; each++) {
            uint64_t begun = monotonic_ns();
            TRY(agent_->ping(in_seconds(60)));
            samples().add("agent_ping", us_since(begun));
            begun = monotonic_ns();
            auto done = TRY(agent_->exec({.argv = {"/bin/true"}}, {}, in_seconds(60)));
            samples().add("agent_exec", us_since(begun));
            if (done.exit_status != 0)
                return fail(Code::internal, "/bin/true: did not end with 0");
        }
        return {};
    }

    Status measure_streams() {
        BareStream bare = TRY(BareStream::connect(directory_));
        std::fprintf(stderr, "phase first bytes of output\n");
        TRY(measure_first_bytes(bare));
        std::fprintf(stderr, "phase streams\n");
        const uint64_t bytes = options_.mib * limits::kMiB / static_cast<uint64_t>(kStreamRounds);
        for (int round = 0; round < kStreamRounds; round++) {
            TRY(measure_bare(bare, bytes));
            TRY(measure_file(bytes, "/dev/shm/spore-bench", "agent_memory"));
            TRY(measure_file(bytes, "/root/spore-bench", "agent_disk"));
            TRY(measure_guest_file(bytes, "/dev/shm/spore-bench", "agent_guest_memory"));
            TRY(measure_guest_file(bytes, "/root/spore-bench", "agent_guest_disk"));
            std::fprintf(stderr, "progress %d %d\n", round + 1, kStreamRounds);
        }
        return {};
    }

    // The guest's clock less ours is between two bounds, which the quickest exchanges give; a first
    // byte's way is by the middle of them, and half their distance the error.
    Status measure_first_bytes(BareStream& bare) {
        int64_t low = INT64_MIN, high = INT64_MAX;
        for (int each = 0; each < kClockSamples; each++) {
            const auto before = static_cast<int64_t>(monotonic_ns());
            TRY(bare.order('t', 0));
            int64_t there = 0;
            TRY(bare.receive(&there, sizeof(there)));
            const auto after = static_cast<int64_t>(monotonic_ns());
            low = std::max(low, there - after);
            high = std::min(high, there - before);
        }
        const int64_t offset = low + (high - low) / 2;
        samples().add("agent_clock_error", static_cast<double>(high - low) / 2000);
        int ends[2] = {-1, -1};
        if (::pipe2(ends, O_CLOEXEC) != 0)
            return fail_errno("pipe");
        UniqueFd from(ends[0]), to(ends[1]);
        int asked = 0;
        std::string line;
        const auto ask = [&] {
            if (asked++ < kClockSamples)
                (void)!::write(to.get(), "\n", 1);
            else
                to.reset();
        };
        ExecStreams streams;
        streams.stdin_fd = from.get();
        streams.on_started = [&](int) { ask(); };
        streams.on_stdout = [&](std::span<const std::byte> bytes) -> Status {
            const auto came = static_cast<int64_t>(monotonic_ns());
            line.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            if (!line.ends_with('\n'))
                return {};
            const int64_t written = std::strtoll(line.c_str(), nullptr, 10) - offset;
            samples().add("agent_first_byte", static_cast<double>(came - written) / 1000);
            line.clear();
            ask();
            return {};
        };
        TRY(agent_->exec({.argv = {kProbe, "echo"}}, streams, in_seconds(300)));
        return {};
    }

    static void add_rate(const std::string& name, uint64_t bytes, uint64_t begun_ns) {
        const double seconds = us_since(begun_ns) / 1e6;
        samples().add(name,
                      static_cast<double>(bytes) / static_cast<double>(limits::kMiB) / seconds);
    }

    Status measure_bare(BareStream& bare, uint64_t bytes) {
        uint64_t begun = monotonic_ns();
        TRY(bare.order('r', bytes));
        for (uint64_t left = bytes; left > 0; left -= std::min<uint64_t>(left, piece_.size()))
            TRY(bare.send(piece_.data(), std::min<uint64_t>(left, piece_.size())));
        char answer = 0;
        TRY(bare.receive(&answer, 1));
        add_rate("agent_bare_in_mibs", bytes, begun);
        begun = monotonic_ns();
        TRY(bare.order('s', bytes));
        for (uint64_t left = bytes; left > 0; left -= std::min<uint64_t>(left, piece_.size()))
            TRY(bare.receive(piece_.data(), std::min<uint64_t>(left, piece_.size())));
        add_rate("agent_bare_out_mibs", bytes, begun);
        return {};
    }

    Status measure_file(uint64_t bytes, const std::string& path, const std::string& name) {
        uint64_t left = bytes;
        // As read(2) of a file would: all that there is room for.
        const auto source = [&](std::span<std::byte> room) -> Result<size_t> {
            room = room.first(std::min<uint64_t>(left, room.size()));
            left -= room.size();
            for (size_t at = 0; at < room.size(); at += piece_.size())
                std::memcpy(room.data() + at, piece_.data(),
                            std::min(piece_.size(), room.size() - at));
            return room.size();
        };
        uint64_t begun = monotonic_ns();
        TRY(files_.write({.path = path}, source, in_seconds(600)));
        add_rate(name + "_write_mibs", bytes, begun);
        uint64_t received = 0;
        begun = monotonic_ns();
        TRY(files_.read(
            {.path = path},
            [&](std::span<const std::byte> more) -> Status {
                received += more.size();
                return {};
            },
            in_seconds(600)));
        add_rate(name + "_read_mibs", bytes, begun);
        if (received != bytes)
            return fail(Code::internal, path + ": " + std::to_string(received) + " bytes read");
        return files_.remove(path, false, in_seconds(60));
    }

    // What the guest's kernel alone takes for such a file, from and to one program's memory.
    Status measure_guest_file(uint64_t bytes, const std::string& path, const std::string& name) {
        const std::string times = TRY(output_of({kProbe, "file", path, std::to_string(bytes)}));
        char* rest = nullptr;
        for (const char* way : {"_write_mibs", "_read_mibs"}) {
            const double ns = std::strtod(rest == nullptr ? times.c_str() : rest, &rest);
            if (ns <= 0)
                return fail(Code::internal, "probe: says '" + times + "'");
            samples().add(name + way, static_cast<double>(bytes) /
                                          static_cast<double>(limits::kMiB) / (ns / 1e9));
        }
        return {};
    }

    // Of PID 1, which the agent is.
    Status measure_memory(const std::string& name) {
        std::string status;
        TRY(files_.read(
            {.path = "/proc/1/status"},
            [&](std::span<const std::byte> more) -> Status {
                status.append(reinterpret_cast<const char*>(more.data()), more.size());
                return {};
            },
            in_seconds(60)));
        const size_t at = status.find("VmRSS:");
        if (at == std::string::npos)
            return fail(Code::internal, "/proc/1/status: has no VmRSS");
        samples().add(name, std::strtod(status.c_str() + at + 6, nullptr));
        const FileInfo binary = TRY(files_.stat("/proc/1/exe", true, in_seconds(60)));
        samples().add("agent_binary_kib", static_cast<double>(binary.size) / 1024);
        return {};
    }

    static constexpr int kStreamRounds = 8;

    const Options& options_;
    std::shared_ptr<AgentConnection> agent_;
    AgentFiles files_;
    std::filesystem::path directory_;
    std::vector<std::byte> piece_;
};

Status run(const Options& options) {
    auto home = TRY(Home::open());
    TemplateSpec spec;
    spec.name = "bench-agent-" + options.kernel;
    spec.image = options.image;
    spec.kernel = options.kernel;
    spec.memory_bytes = uint64_t{kMemoryMib} << 20;
    spec.disk_bytes = 2 * limits::kGiB;
    (void)remove_template(home, spec.name);
    std::fprintf(stderr, "phase template\n");
    TRY(create_template(
        home, spec, [](const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); }));
    SandboxSpec sandbox_spec;
    sandbox_spec.template_name = spec.name;
    auto sandbox = TRY(create_sandbox(home, sandbox_spec));
    const std::string id = sandbox.info.record.id;
    auto measure = [&]() -> Status {
        auto agent = TRY(AgentConnection::over(std::move(sandbox.agent)));
        return AgentBench(options, std::move(agent), run_directory(home, id)).run();
    };
    const Status measured = measure();
    TRY(destroy_sandbox(home, id));
    TRY(Status(measured));
    return samples().write(options.out);
}

int main_with(int argc, char** argv) {
    Options options;
    CLI::App app("Measures the agent in a Linux guest; bench/run calls it in the emulated host");
    app.add_option("--image", options.image);
    app.add_option("--kernel", options.kernel);
    app.add_option("--probe", options.probe, "the guest's part")->required();
    app.add_option("--out", options.out, "where the samples go")->required();
    app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 100'000));
    app.add_option("--mib", options.mib, "MiB through each stream")->check(CLI::Range(8, 100'000));
    CLI11_PARSE(app, argc, argv);
    if (auto done = run(options); !done) {
        std::fprintf(stderr, "spore-agent-bench: %s\n", done.error().message.c_str());
        return exit_status(done.error().code);
    }
    return 0;
}

}  // namespace
}  // namespace spore::bench

int main(int argc, char** argv) {
    return spore::bench::main_with(argc, argv);
}
