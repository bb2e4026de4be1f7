// spore-linux-bench: Linux guests on a /dev/kvm that runs them (tests/bed): the boundaries of a
// clone through libspore, the agent's round trip, memory; beside them Firecracker and QEMU with the
// same kernel, agent and command. Rounds are interleaved. bench/run makes figures of the samples.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <optional>
#include <random>

#include "bench/firecracker.h"
#include "bench/full_pool.h"
#include "bench/qemu.h"
#include "bench/samples.h"
#include "hypervisor/base/clock.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/pool.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::bench {
namespace {

struct Options {
    std::string image = "e2e", kernel = "tuned", firecracker, qemu, work, out;
    int rounds = 20;
    int alive = 100;
};

constexpr unsigned kMemoryMib = 256;
// What a peer's guest gets besides (the same as template.cc gives a Spore guest, no console).
constexpr const char* kBootArgs =
    "quiet loglevel=4 panic=-1 reboot=t random.trust_cpu=on spore.root=vda";

AgentClient::Deadline in_seconds(int seconds) {
    return std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
}

double us_since(uint64_t begun_ns) {
    return static_cast<double>(monotonic_ns() - begun_ns) / 1000;
}

Status run_true(AgentClient& agent) {
    ExecRequest request;
    request.argv = {"/bin/true"};
    auto result = TRY(agent.exec(request, {}, in_seconds(60)));
    if (result.end != ExecResult::End::exited || result.exit_status != 0)
        return fail(Code::internal, "/bin/true: did not end with 0: " + result.message);
    return {};
}

Status measure_warm(AgentClient& agent) {
    for (int round = 0; round < 5; round++) {
        uint64_t begun = monotonic_ns();
        TRY(agent.ping(in_seconds(30)));
        samples().add("linux_ping", us_since(begun));
        begun = monotonic_ns();
        TRY(run_true(agent));
        samples().add("linux_exec", us_since(begun));
    }
    return {};
}

// A template for each way to a clone: whichever waits in its pool is what a request gets.
struct Way {
    std::string name;  // the samples': cold, ready, parked
    std::string template_name;
    PoolSpec pool;
};

Status wait_for_clone(const Home& home, const Way& way) {
    return way.name == "cold" ? Status() : wait_for_pool(home, way.pool);
}

// From the request to the end of the first command.
Status measure_spore(const Home& home, const Way& way) {
    TRY(wait_for_clone(home, way));
    SandboxSpec spec;
    spec.template_name = way.template_name;
    uint64_t begun = monotonic_ns();
    auto sandbox = TRY(create_sandbox(home, spec));
    auto measure = [&]() -> Status {
        TRY(run_true(sandbox.agent));
        double b4 = us_since(begun);
        if (source_name(sandbox.source) != way.name)
            return fail(Code::unavailable, "came " + std::string(source_name(sandbox.source)));
        TRY(learn_times(home, sandbox));
        auto& at = sandbox.boundaries;
        double b2 = static_cast<double>(at.b2_us), b3 = static_cast<double>(at.b3_us);
        std::string prefix = "linux_" + way.name;
        samples().add(prefix + "_b1", static_cast<double>(at.b1_us));
        samples().add(prefix + "_b2", b2);
        samples().add(prefix + "_b3", b3);
        samples().add(prefix + "_b4", b4);
        samples().add(prefix + "_b3_less_b2", b3 - b2);
        samples().add(prefix + "_b4_less_b3", b4 - b3);
        TRY(wait_for_clone(home, way));
        return measure_warm(sandbox.agent);
    };
    Status measured = measure();
    Status ended = destroy_sandbox(home, sandbox.info.record.id);
    TRY(std::move(measured));
    return ended;
}

AgentIdentity peer_identity() {
    AgentIdentity identity;
    identity.hostname = "peer";
    identity.machine_id = "0123456789abcdef0123456789abcdef";
    return identity;
}

// The agent behind Firecracker's socket; as often as it takes.
Result<AgentClient> connect_firecracker(const std::filesystem::path& vsock, int seconds) {
    auto deadline = in_seconds(seconds);
    for (;;) {
        auto agent = AgentClient::connect(vsock, kAgentPort, deadline);
        if (agent || std::chrono::steady_clock::now() > deadline)
            return agent;
        ::usleep(1000);
    }
}

Status finish_peer(AgentClient& agent, uint64_t begun_ns, const std::string& name) {
    TRY(agent.identify(peer_identity(), in_seconds(60)));
    samples().add(name + "_b3", us_since(begun_ns));
    TRY(run_true(agent));
    samples().add(name + "_b4", us_since(begun_ns));
    return {};
}

Status measure_firecracker(Firecracker& firecracker, bool with_start) {
    auto restored = TRY(firecracker.restore(with_start));
    TRY(firecracker_agrees(restored.api.get()));
    auto agent = TRY(connect_firecracker(firecracker.vsock(), 60));
    return finish_peer(agent, restored.begun_ns,
                       with_start ? "linux_firecracker_start" : "linux_firecracker_waiting");
}

Status measure_qemu(Qemu& qemu) {
    uint64_t begun = monotonic_ns();
    auto process = TRY(qemu.restore());
    auto agent = TRY(AgentClient::over(TRY(connect_vsock(Qemu::kCid, kAgentPort, in_seconds(60))),
                                       in_seconds(60)));
    return finish_peer(agent, begun, "linux_qemu");
}

// Pss of the spore-vmm `pid`, in KiB.
Result<double> pss_kib(int pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/smaps_rollup");
    std::string word;
    double value = 0;
    while (file >> word) {
        if (word == "Pss:" && file >> value)
            return value;
    }
    return fail(Code::not_found, "smaps_rollup of " + std::to_string(pid) + ": no Pss");
}

// `count` clones that nobody uses, all alive.
Status measure_memory(const Home& home, const std::string& template_name, int count) {
    std::vector<SandboxRecord> made;
    Status status;
    for (int index = 0; index < count && status; index++) {
        SandboxSpec spec;
        spec.template_name = template_name;
        auto sandbox = create_sandbox(home, spec);
        if (sandbox)
            made.push_back(sandbox->info.record);
        else
            status = std::unexpected(sandbox.error());
        std::fprintf(stderr, "progress %d %d\n", index + 1, count);
    }
    for (const SandboxRecord& record : made) {
        if (auto pss = pss_kib(record.process.pid))
            samples().add("linux_pss_kib", *pss);
        else
            status = std::unexpected(pss.error());
    }
    for (const SandboxRecord& record : made)
        (void)destroy_sandbox(home, record.id);
    return status;
}

Result<Way> make_way(const Home& home, const Options& options, const std::string& name) {
    Way way{name, "bench-" + options.kernel + "-" + name, {}};
    way.pool.template_name = way.template_name;
    way.pool.ready = name == "ready";
    way.pool.parked = name == "parked";
    TemplateSpec spec;
    spec.name = way.template_name;
    spec.image = options.image;
    spec.kernel = options.kernel;
    spec.memory_bytes = uint64_t{kMemoryMib} << 20;
    spec.prepare = {"python3 -c 'import sys'"};
    (void)stop_pool(home, spec.name);
    (void)remove_template(home, spec.name);
    TRY(create_template(
        home, spec, [](const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); }));
    if (name != "cold")
        TRY(start_pool(home, way.pool, std::chrono::seconds(120)));
    return way;
}

// A disk of its own for a peer's guest.
Result<std::string> copy_disk(const Image& image, const std::string& to) {
    std::error_code error;
    std::filesystem::copy_file(image.rootfs, to, std::filesystem::copy_options::overwrite_existing,
                               error);
    if (!error)  // the image's is read-only
        std::filesystem::permissions(to, std::filesystem::perms::owner_write,
                                     std::filesystem::perm_options::add, error);
    if (error)
        return fail(Code::unavailable, to + ": " + error.message());
    return to;
}

Result<Firecracker> boot_firecracker(const Options& options, const Image& image,
                                     const ImageKernel& kernel) {
    FirecrackerGuest guest;
    guest.kernel = kernel.kernel;
    guest.initrd = kernel.initramfs;
    guest.boot_args = kBootArgs;
    guest.drive = TRY(copy_disk(image, options.work + "/firecracker.ext4"));
    guest.memory_mib = kMemoryMib;
    guest.pci = true;
    return Firecracker::create(options.firecracker, guest, options.work + "/firecracker",
                               [](Child&, const std::filesystem::path& vsock) -> Status {
                                   auto agent = TRY(connect_firecracker(vsock, 180));
                                   TRY(run_true(agent));  // as in a template
                                   return agent.prepare_snapshot(in_seconds(60));
                               });
}

Result<Qemu> boot_qemu(const Options& options, const Image& image, const ImageKernel& kernel) {
    QemuGuest guest;
    guest.kernel = kernel.kernel;
    guest.initrd = kernel.initramfs;
    guest.boot_args = kBootArgs;
    guest.drive = TRY(copy_disk(image, options.work + "/qemu.ext4"));
    guest.memory_mib = kMemoryMib;
    auto qemu = TRY(Qemu::create(options.qemu, guest, options.work + "/qemu"));
    TRY(qemu.save([](unsigned cid) -> Status {
        auto agent = TRY(AgentClient::over(TRY(connect_vsock(cid, kAgentPort, in_seconds(180))),
                                           in_seconds(60)));
        TRY(run_true(agent));  // as in a template
        return agent.prepare_snapshot(in_seconds(60));
    }));
    return qemu;
}

struct Contender {
    std::string name;
    std::function<Status()> measure;
};

// Every contender once a round, in another order each time.
void run_rounds(std::vector<Contender> contenders, int rounds) {
    std::mt19937 random(20261124);
    for (int round = 0; round < rounds; round++) {
        std::ranges::shuffle(contenders, random);
        for (const Contender& contender : contenders) {
            if (auto done = contender.measure(); !done) {
                std::fprintf(stderr, "%s: %s\n", contender.name.c_str(),
                             done.error().message.c_str());
                samples().skip(contender.name, done.error().message);
            }
        }
        std::fprintf(stderr, "progress %d %d\n", round + 1, rounds);
    }
}

Status run(const Options& options) {
    std::filesystem::create_directories(options.work);
    auto home = TRY(Home::open());
    auto image = TRY(load_image(home, options.image));
    auto kernel = TRY(find_kernel(image, options.kernel));
    std::fprintf(stderr, "phase templates\n");
    std::vector<Contender> contenders;
    std::vector<Way> ways;
    for (const char* name : {"cold", "ready", "parked"})
        ways.push_back(TRY(make_way(home, options, name)));
    for (const Way& way : ways)
        contenders.push_back(
            {"linux_" + way.name + "_b4", [&home, way] { return measure_spore(home, way); }});
    auto refuse = [](const char* figure, const Error& error) {
        std::fprintf(stderr, "%s: %s\n", figure, error.message.c_str());
        samples().skip(figure, error.message);
    };
    std::optional<Firecracker> firecracker;
    if (!options.firecracker.empty()) {
        std::fprintf(stderr, "phase Firecracker's snapshot\n");
        if (auto made = boot_firecracker(options, image, kernel)) {
            firecracker = std::move(*made);
            contenders.push_back({"linux_firecracker_waiting_b4",
                                  [&] { return measure_firecracker(*firecracker, false); }});
            contenders.push_back({"linux_firecracker_start_b4",
                                  [&] { return measure_firecracker(*firecracker, true); }});
        } else {
            refuse("linux_firecracker_waiting_b4", made.error());
            refuse("linux_firecracker_start_b4", made.error());
        }
    }
    std::optional<Qemu> qemu;
    if (!options.qemu.empty()) {
        std::fprintf(stderr, "phase QEMU's saved state\n");
        if (auto made = boot_qemu(options, image, kernel)) {
            qemu = std::move(*made);
            contenders.push_back({"linux_qemu_b4", [&] { return measure_qemu(*qemu); }});
        } else {
            refuse("linux_qemu_b4", made.error());
        }
    }
    std::fprintf(stderr, "phase one at a time\n");
    run_rounds(std::move(contenders), options.rounds);
    std::fprintf(stderr, "phase memory of idle clones\n");
    if (auto memory = measure_memory(home, ways[0].template_name, options.alive); !memory)
        refuse("linux_pss_kib", memory.error());
    for (const Way& way : ways) {
        if (way.name != "cold")
            (void)stop_pool(home, way.template_name);
    }
    return samples().write(options.out);
}

int main_with(int argc, char** argv) {
    Options options;
    CLI::App app("Measures clones of a Linux guest; bench/run calls it in the emulated host");
    app.add_option("--image", options.image);
    app.add_option("--kernel", options.kernel);
    app.add_option("--firecracker", options.firecracker);
    app.add_option("--qemu", options.qemu);
    app.add_option("--work", options.work, "a directory to work in")->required();
    app.add_option("--out", options.out, "where the samples go")->required();
    app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 100'000));
    app.add_option("--alive", options.alive)->check(CLI::Range(1, 10'000));
    CLI11_PARSE(app, argc, argv);
    if (auto done = run(options); !done) {
        std::fprintf(stderr, "spore-linux-bench: %s\n", done.error().message.c_str());
        return exit_status(done.error().code);
    }
    return 0;
}

}  // namespace
}  // namespace spore::bench

int main(int argc, char** argv) {
    return spore::bench::main_with(argc, argv);
}
