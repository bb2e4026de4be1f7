// spore-restore-bench: what a clone of the freestanding guest costs on this machine's /dev/kvm,
// beside the floor and Firecracker, interleaved by Google Benchmark: every sample is a repetition,
// and the repetitions of all benchmarks of a phase are shuffled. bench/run makes figures of them.

#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <barrier>
#include <cstdio>
#include <functional>
#include <optional>

#include "bench/clone_rig.h"
#include "bench/firecracker.h"
#include "bench/floor_client.h"
#include "bench/samples.h"
#include "hypervisor/base/clock.h"

namespace spore::bench {
namespace {

struct Options {
    std::string vmm, floor, guest, firecracker, work, out;
    int rounds = 200;
    int alive = 500;
    int at_once = 32;
    int at_once_rounds = 10;
};

constexpr unsigned kSmallMib = 128, kLargeMib = 4096;

// For bench/run, on standard error: where we are. Shuffled repetitions are reported at their end
// only, so each sample counts itself.
class Progress {
  public:
    void begin(const char* phase, size_t samples) {
        std::fprintf(stderr, "phase %s\n", phase);
        done_ = 0;
        expected_ = samples;
    }
    void step() { std::fprintf(stderr, "progress %zu %zu\n", ++done_, expected_); }

  private:
    size_t done_ = 0;
    size_t expected_ = 0;
};
Progress progress;

class Quiet : public benchmark::BenchmarkReporter {
  public:
    bool ReportContext(const Context&) override { return true; }
    void ReportRuns(const std::vector<Run>& runs) override {
        for (const Run& run : runs) {
            if (run.error_occurred)
                std::fprintf(stderr, "%s: %s\n", run.benchmark_name().c_str(),
                             run.error_message.c_str());
        }
    }
};

using Measure = std::function<Result<double>()>;

// One sample a repetition: `measure` says how long it took, in µs, and keeps further samples.
void add_benchmark(const std::string& name, int rounds, Measure measure) {
    benchmark::RegisterBenchmark(name.c_str(),
                                 [name, measure](benchmark::State& state) {
                                     for (auto _ : state) {
                                         auto us = measure();
                                         progress.step();
                                         if (!us) {
                                             state.SkipWithError(us.error().message.c_str());
                                             samples().skip(name, us.error().message);
                                             return;
                                         }
                                         state.SetIterationTime(*us / 1e6);
                                         samples().add(name, *us);
                                     }
                                 })
        ->Iterations(1)
        ->Repetitions(rounds)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
}

// A clone: B2, and B1 beside it under the name `b1`. What waits for it is made before.
Result<double> clone_once(CloneRig& rig, Path path, unsigned memory_mib, const std::string& b1) {
    TRY(rig.make_waiting(path, memory_mib, 1));
    auto clone = TRY(rig.start(path, memory_mib));
    TRY(learn_boundaries(clone));
    TRY(end_clone(clone));
    samples().add(b1, clone.b1_us());
    return clone.b2_us();
}

// Keeps the stages of a clone that noted them: those between its request and B2.
void add_stages(const Clone& clone, const std::string& path) {
    uint64_t last = clone.begun_ns;
    auto add = [&](const std::string& stage, uint64_t end) {
        samples().add("stage/" + path + "/" + stage, static_cast<double>(end - last) / 1000);
        last = end;
    };
    unsigned number = 0;
    for (const auto& [stage, end] : clone.stages) {
        // Ahead of the request; behind B2, or beside it, on the loop's thread.
        if (end < clone.begun_ns || end > clone.first_exit_ns || stage == "serve")
            continue;
        char order[8];
        std::snprintf(order, sizeof(order), "%02u-", number++);
        add(order + stage, end);
    }
    add("99-first_exit", clone.first_exit_ns);
}

// A clone with the stage timer on.
Result<double> stages_once(CloneRig& rig, Path path) {
    TRY(rig.make_waiting(path, kSmallMib, 1, true));
    auto clone = TRY(rig.start(path, kSmallMib, true));
    TRY(learn_boundaries(clone));
    TRY(end_clone(clone));
    add_stages(clone, path_name(path));
    return clone.b2_us();
}

// `count` requests at the same moment, each from a thread of its own; µs until the last first exit.
Result<double> clones_at_once(CloneRig& rig, Path path, unsigned count, bool with_stages) {
    TRY(rig.make_waiting(path, kSmallMib, count, with_stages));
    std::vector<std::optional<Result<Clone>>> clones(count);
    std::barrier gate(static_cast<std::ptrdiff_t>(count) + 1);
    std::vector<std::thread> threads;
    for (auto& clone : clones) {
        threads.emplace_back([&] {
            gate.arrive_and_wait();
            clone = rig.start(path, kSmallMib, with_stages);
        });
    }
    uint64_t begun = monotonic_ns(), last = begun;
    gate.arrive_and_wait();
    for (std::thread& thread : threads)
        thread.join();
    Status status;
    for (auto& clone : clones) {
        Status learnt = *clone ? learn_boundaries(**clone) : std::unexpected(clone->error());
        if (!learnt)
            status = learnt;
        else
            last = std::max(last, (**clone).first_exit_ns);
    }
    for (auto& clone : clones) {
        if (*clone)
            (void)end_clone(**clone);
    }
    TRY(std::move(status));
    for (auto& clone : clones) {
        if (with_stages)
            add_stages(**clone, std::string(path_name(path)) + "_at_once");
    }
    return static_cast<double>(last - begun) / 1000;
}

void run_phase(const char* what, size_t samples) {
    progress.begin(what, samples);
    Quiet quiet;
    benchmark::RunSpecifiedBenchmarks(&quiet);
    benchmark::ClearRegisteredBenchmarks();
}

Status run_single(const Options& options, CloneRig& rig) {
    auto small = TRY(Floor::start(options.floor, kSmallMib));
    auto large = TRY(Floor::start(options.floor, kLargeMib));
    std::optional<Firecracker> firecracker;
    size_t count = 11;
    add_benchmark("floor/128", options.rounds, [&] { return small.round(); });
    add_benchmark("floor/4096", options.rounds, [&] { return large.round(); });
    for (unsigned mib : {kSmallMib, kLargeMib}) {
        for (Path path : {Path::cold, Path::ready, Path::parked}) {
            std::string name = path_name(path), size = "/" + std::to_string(mib);
            add_benchmark(name + size, options.rounds, [&rig, path, mib, b1 = name + "_b1" + size] {
                return clone_once(rig, path, mib, b1);
            });
        }
    }
    for (Path path : {Path::cold, Path::ready, Path::parked})
        add_benchmark(std::string(path_name(path)) + "_stages/128", options.rounds,
                      [&rig, path] { return stages_once(rig, path); });
    if (!options.firecracker.empty()) {
        firecracker = TRY(Firecracker::create(
            options.firecracker, {.kernel = options.guest, .memory_mib = kSmallMib},
            options.work + "/firecracker", freestanding_guest_runs));
        add_benchmark("firecracker_waiting/128", options.rounds,
                      [&] { return firecracker->restore_to_first_exit(false); });
        add_benchmark("firecracker_start/128", options.rounds,
                      [&] { return firecracker->restore_to_first_exit(true); });
        count += 2;
    }
    run_phase("one at a time", count * static_cast<size_t>(options.rounds));
    return {};
}

void run_at_once(const Options& options, CloneRig& rig) {
    auto count = static_cast<unsigned>(options.at_once);
    add_benchmark("floor_at_once", options.at_once_rounds,
                  [&] { return floor_at_once(options.floor, count); });
    for (Path path : {Path::cold, Path::ready}) {
        for (bool with_stages : {false, true})
            add_benchmark(path_name(path) + std::string(with_stages ? "_stages" : "") + "_at_once",
                          options.at_once_rounds, [&rig, count, path, with_stages] {
                              return clones_at_once(rig, path, count, with_stages);
                          });
    }
    run_phase("at once", 5 * static_cast<size_t>(options.at_once_rounds));
}

// `count` live clones, each's B2 noted.
Status make_alive(CloneRig& rig, Path path, int count, std::vector<Clone>& alive) {
    progress.begin("many alive", static_cast<size_t>(count));
    for (int index = 0; index < count; index++) {
        TRY(rig.make_waiting(path, kSmallMib, 1));
        alive.push_back(TRY(rig.start(path, kSmallMib)));
        TRY(learn_boundaries(alive.back()));
        samples().add(std::string(path_name(path)) + "_by_number_alive", alive.back().b2_us());
        progress.step();
    }
    return {};
}

// All but one live; then that one, again and again, beside the floor.
Status run_alive(const Options& options, CloneRig& rig) {
    std::vector<Clone> alive;
    Status status = make_alive(rig, Path::ready, options.alive / 2, alive);
    if (status)
        status = make_alive(rig, Path::cold, options.alive - options.alive / 2 - 1, alive);
    if (status) {
        auto floor = TRY(Floor::start(options.floor, kSmallMib));
        add_benchmark("floor_many_alive/128", options.rounds, [&] { return floor.round(); });
        for (Path path : {Path::cold, Path::ready, Path::parked}) {
            std::string name = path_name(path);
            add_benchmark(name + "_many_alive/128", options.rounds, [&rig, path, name] {
                return clone_once(rig, path, kSmallMib, name + "_b1_many_alive/128");
            });
        }
        run_phase("beside many alive", 4 * static_cast<size_t>(options.rounds));
    }
    for (const Clone& clone : alive)
        (void)end_clone(clone);
    return status;
}

Status run(const Options& options) {
    auto rig = TRY(CloneRig::create({options.vmm, options.guest}, options.work));
    progress.begin("templates", 2);
    for (unsigned mib : {kSmallMib, kLargeMib}) {
        TRY(rig->make_template(mib));
        progress.step();
    }
    TRY(run_single(options, *rig));
    run_at_once(options, *rig);
    if (auto alive = run_alive(options, *rig); !alive)
        samples().skip("many_alive", alive.error().message);
    return samples().write(options.out);
}

int main_with(int argc, char** argv) {
    Options options;
    CLI::App app("Measures restoring the freestanding guest; bench/run calls it");
    app.add_option("--vmm", options.vmm)->required();
    app.add_option("--floor", options.floor)->required();
    app.add_option("--guest", options.guest)->required();
    app.add_option("--work", options.work, "a directory to work in")->required();
    app.add_option("--out", options.out, "where the samples go")->required();
    app.add_option("--firecracker", options.firecracker);
    app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 100'000));
    app.add_option("--alive", options.alive)->check(CLI::Range(1, 10'000));
    app.add_option("--at-once", options.at_once)->check(CLI::Range(1, 1000));
    app.add_option("--at-once-rounds", options.at_once_rounds)->check(CLI::Range(1, 10'000));
    CLI11_PARSE(app, argc, argv);
    std::string interleave = "--benchmark_enable_random_interleaving=true";
    char* words[] = {argv[0], interleave.data(), nullptr};
    int count = 2;
    benchmark::Initialize(&count, words);
    if (auto done = run(options); !done) {
        std::fprintf(stderr, "spore-restore-bench: %s\n", done.error().message.c_str());
        return exit_status(done.error().code);
    }
    return 0;
}

}  // namespace
}  // namespace spore::bench

int main(int argc, char** argv) {
    return spore::bench::main_with(argc, argv);
}
