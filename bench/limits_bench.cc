// spore-limits-bench: what a network and quotas add to a clone from a pool, through libspore: each
// round takes one of a template without a card and without a limit, and one with both, in either
// order. On any /dev/kvm with the freestanding guest that answers like the agent, or with Linux
// where that runs. bench/run makes figures of the samples.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <random>

#include "bench/full_pool.h"
#include "bench/samples.h"
#include "hypervisor/base/clock.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::bench {
namespace {

struct Options {
    std::string image, kernel, prefix, out;
    int rounds = 100;
    bool in_guest = false;
};

constexpr int kPings = 5;

AgentClient::Deadline in_seconds(int seconds) {
    return std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
}

// One kind of clone.
struct Kind {
    std::string name;  // the samples'
    PoolSpec pool;
    NetworkWords network;
    Quotas quotas;
};

// None of them is in the way of a guest that does nothing.
Result<Quotas> some_of_each(bool in_guest) {
    QuotaWords words;
    words.cpu_max = "1";
    words.cpu_weight = "200";
    words.io_max = "1G,ops=1000000";
    words.net_max = "1G,packets=1000000";
    if (in_guest) {
        words.memory_max = "128M";
        words.pids_max = "100";
    }
    return with_words({}, words);
}

Result<Kind> make_kind(const Home& home, const Options& options, const std::string& name,
                       bool with_limits) {
    Kind kind;
    kind.name = options.prefix + name;
    kind.pool.template_name = "bench-" + name;
    kind.pool.ready = 1;
    if (with_limits) {
        kind.network.mode = "egress";
        kind.quotas = TRY(some_of_each(options.in_guest));
    }
    TemplateSpec spec;
    spec.name = kind.pool.template_name;
    spec.image = options.image;
    spec.kernel = options.kernel;
    spec.network = kind.network;
    (void)stop_pool(home, spec.name);
    (void)remove_template(home, spec.name);
    TRY(create_template(home, spec, [](const std::string& what) {
        if (!what.ends_with("%"))  // the steps, not each of a hundred parts of them
            std::fprintf(stderr, "%s\n", what.c_str());
    }));
    TRY(start_pool(home, kind.pool, std::chrono::seconds(120)));
    return kind;
}

// Where its time goes: the end of each of this side's stages from the end of the one before.
void add_stages(const Kind& kind, const std::vector<StageTime>& stages) {
    int64_t last = 0;
    unsigned number = 0;
    for (const StageTime& stage : stages) {
        if (stage.name.starts_with("vmm.") || stage.end_us < 0)
            continue;
        char order[8];
        std::snprintf(order, sizeof(order), "%02u-", number++);
        samples().add("stage/" + kind.name + "/" + order + stage.name,
                      static_cast<double>(stage.end_us - last));
        last = stage.end_us;
    }
}

// B3, in µs; the samples have it and B2.
Result<double> measure(const Home& home, const Kind& kind, const std::string& prefix) {
    SandboxSpec spec;
    spec.template_name = kind.pool.template_name;
    spec.network = kind.network;
    spec.quotas = kind.quotas;
    spec.stage_times = true;
    auto sandbox = TRY(create_sandbox(home, spec));
    auto look = [&]() -> Status {
        if (sandbox.source != CloneSource::ready)
            return fail(Code::unavailable,
                        "came " + std::string(source_name(sandbox.source)) + ", not ready");
        TRY(learn_times(home, sandbox));
        for (int count = 0; count < kPings; count++) {
            uint64_t begun = monotonic_ns();
            TRY(sandbox.agent.ping(in_seconds(30)));
            samples().add(prefix + "ping", static_cast<double>(monotonic_ns() - begun) / 1000);
        }
        return {};
    };
    Status looked = look();
    Status ended = destroy_sandbox(home, sandbox.info.record.id);
    TRY(std::move(looked));
    TRY(std::move(ended));
    samples().add(kind.name + "_b2", static_cast<double>(sandbox.boundaries.b2_us));
    samples().add(kind.name + "_b3", static_cast<double>(sandbox.boundaries.b3_us));
    add_stages(kind, sandbox.stages);
    return static_cast<double>(sandbox.boundaries.b3_us);
}

Status run_rounds(const Home& home, const Options& options, const Kind& plain,
                  const Kind& limited) {
    std::mt19937 random(20261127);
    for (int round = 0; round < options.rounds; round++) {
        for (const Kind* kind : {&plain, &limited})
            TRY(wait_for_pool(home, kind->pool));
        bool plain_first = random() % 2 == 0;
        double first = TRY(measure(home, plain_first ? plain : limited, options.prefix));
        // Not while the first one's successor is being made.
        for (const Kind* kind : {&plain, &limited})
            TRY(wait_for_pool(home, kind->pool));
        double second = TRY(measure(home, plain_first ? limited : plain, options.prefix));
        samples().add(options.prefix + "b3_added", plain_first ? second - first : first - second);
        std::fprintf(stderr, "progress %d %d\n", round + 1, options.rounds);
    }
    return {};
}

Status run(const Options& options) {
    auto home = TRY(Home::open());
    std::fprintf(stderr, "phase templates with and without network and quotas\n");
    auto plain = TRY(make_kind(home, options, "plain", false));
    auto limited = TRY(make_kind(home, options, "limited", true));
    std::fprintf(stderr, "phase clones with and without network and quotas\n");
    Status done = run_rounds(home, options, plain, limited);
    for (const Kind* kind : {&plain, &limited}) {
        (void)stop_pool(home, kind->pool.template_name);
        (void)remove_template(home, kind->pool.template_name);
    }
    TRY(std::move(done));
    return samples().write(options.out);
}

int main_with(int argc, char** argv) {
    Options options;
    CLI::App app("Measures what network and quotas add to a clone; bench/run calls it");
    app.add_option("--image", options.image)->required();
    app.add_option("--kernel", options.kernel)->required();
    app.add_option("--prefix", options.prefix, "of the samples' names");
    app.add_option("--out", options.out, "where the samples go")->required();
    app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 100'000));
    app.add_flag("--in-guest", options.in_guest, "with those that the guest's agent enforces too");
    CLI11_PARSE(app, argc, argv);
    if (auto done = run(options); !done) {
        std::fprintf(stderr, "spore-limits-bench: %s\n", done.error().message.c_str());
        return exit_status(done.error().code);
    }
    return 0;
}

}  // namespace
}  // namespace spore::bench

int main(int argc, char** argv) {
    return spore::bench::main_with(argc, argv);
}
