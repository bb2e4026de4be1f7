// A process that lives long and uses libspore, for tests/soak/run, which looks at it from outside:
// an order a line on standard input, its outcome a line of JSON on standard output.
//
//   rounds COUNT THREADS TEMPLATE cold|pool   create, run a command, destroy; `pool`: of what waits
//   same COUNT TEMPLATE ID cold|pool          COUNT create_sandbox() at once, all of the same ID
//   stopped COUNT MS TEMPLATE cold|pool       each asked to stop at a random moment of its first MS
//   stopped-templates COUNT MS IMAGE          the same with templates

#include <unistd.h>

#include <atomic>
#include <barrier>
#include <cstdio>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore {

namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
constexpr auto kLimit = std::chrono::seconds(60);
constexpr size_t kErrorsMax = 10;

// What came of an order, told by several threads.
class Outcome {
  public:
    void count(const std::string& what) {
        std::lock_guard lock(mutex_);
        counts_[what]++;
    }
    void fail(const Error& error) {
        std::lock_guard lock(mutex_);
        counts_["failed"]++;
        if (errors_.size() < kErrorsMax)
            errors_.push_back(std::string(code_name(error.code)) + ": " + error.message);
    }
    json document() const { return {{"counts", counts_}, {"errors", errors_}}; }

  private:
    std::mutex mutex_;
    std::map<std::string, uint64_t> counts_;
    std::vector<std::string> errors_;
};

// The guest writes its host name, which is the sandbox's: nobody else has answered.
Status run_command(AgentClient& agent, const std::string& id) {
    std::string output;
    ExecStreams streams;
    streams.on_stdout = [&](std::span<const std::byte> bytes) -> Status {
        output.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        return {};
    };
    auto result = TRY(agent.exec({.argv = {"hostname"}}, streams, Clock::now() + kLimit));
    if (result.exit_status != 0 || output != id + "\n")
        return fail(Code::internal, "sandbox '" + id + "': status " +
                                        std::to_string(result.exit_status) + ", output '" + output +
                                        "'");
    return {};
}

Status run_round(const Home& home, const SandboxSpec& spec, Outcome& outcome) {
    auto made = TRY(create_sandbox(home, spec));
    outcome.count(std::string(source_name(made.source)));
    const std::string& id = made.info.record.id;
    auto use = [&]() -> Status {
        TRY(run_command(made.agent, id));
        auto another = TRY(connect_agent(run_directory(home, id), Clock::now() + kLimit));
        return run_command(another, id);
    };
    auto answered = use();
    TRY(destroy_sandbox(home, id));
    return answered;
}

// Not before a clone waits: a pool is filled up behind the requests, and these would never end.
Status wait_for_clone(const Home& home, const std::string& template_name) {
    auto limit = Clock::now() + kLimit;
    while (Clock::now() < limit) {
        std::error_code error;
        for (const auto& entry :
             std::filesystem::directory_iterator(home.pools() / template_name, error)) {
            std::string name = entry.path().filename();
            if (name.starts_with("parked-") || name.starts_with("ready-"))
                return {};
        }
        ::usleep(2000);
    }
    return fail(Code::timeout, "pool '" + template_name + "': nothing waits in it");
}

void rounds(const Home& home, std::istringstream& words, Outcome& outcome) {
    int count = 0, threads = 0;
    SandboxSpec spec;
    std::string path;
    words >> count >> threads >> spec.template_name >> path;
    spec.cold = path == "cold";
    std::atomic<int> left = count;
    auto work = [&] {
        while (left.fetch_sub(1) > 0) {
            Status ready = spec.cold ? Status() : wait_for_clone(home, spec.template_name);
            if (auto done = ready ? run_round(home, spec, outcome) : ready; !done)
                outcome.fail(done.error());
        }
    };
    std::vector<std::jthread> workers;
    for (int number = 0; number < threads; number++)
        workers.emplace_back(work);
}

void same(const Home& home, std::istringstream& words, Outcome& outcome) {
    int count = 0;
    SandboxSpec spec;
    std::string path;
    words >> count >> spec.template_name >> spec.id >> path;
    spec.cold = path == "cold";
    std::barrier together(count);
    std::vector<std::jthread> workers;
    for (int number = 0; number < count; number++)
        workers.emplace_back([&] {
            together.arrive_and_wait();
            auto made = create_sandbox(home, spec);
            outcome.count(made ? "created" : std::string(code_name(made.error().code)));
        });
}

// Calls `make` with a stop that another thread requests after up to `ms_max` ms.
template <typename Make>
auto make_stopped(int ms_max, Make make) {
    static std::minstd_rand random(std::random_device{}());
    std::stop_source stop;
    const std::chrono::microseconds pause(random() % (static_cast<unsigned>(ms_max) * 1000));
    const std::jthread stopper([&] {
        std::this_thread::sleep_for(pause);
        stop.request_stop();
    });
    return make(stop.get_token());
}

// What came of one of these; what was made after all is destroyed.
template <typename Made>
void tell_stopped(const Made& made, const Status& destroyed, Outcome& outcome) {
    if (!made && made.error().code != Code::unavailable)
        outcome.fail(made.error());
    else if (!destroyed)
        outcome.fail(destroyed.error());
    outcome.count(made ? "created" : "stopped");
}

void stopped(const Home& home, std::istringstream& words, Outcome& outcome) {
    int count = 0, ms_max = 0;
    SandboxSpec spec;
    std::string path;
    words >> count >> ms_max >> spec.template_name >> path;
    spec.cold = path == "cold";
    for (int number = 0; number < count; number++) {
        auto made = make_stopped(ms_max, [&](std::stop_token stop) {
            spec.stop = std::move(stop);
            return create_sandbox(home, spec);
        });
        Status done;
        if (made) {
            const std::string& id = made->info.record.id;
            done = run_command(made->agent, id);  // it lives: a stop that came later is no matter
            if (Status destroyed = destroy_sandbox(home, id); done)
                done = destroyed;
        }
        tell_stopped(made, done, outcome);
    }
}

void stopped_templates(const Home& home, std::istringstream& words, Outcome& outcome) {
    int count = 0, ms_max = 0;
    TemplateSpec spec = {.name = "stopped", .memory_bytes = 128 << 20, .disk_bytes = 2 << 20};
    words >> count >> ms_max >> spec.image;
    for (int number = 0; number < count; number++) {
        const auto made = make_stopped(ms_max, [&](std::stop_token stop) {
            spec.stop = std::move(stop);
            return create_template(home, spec, [](const std::string&) {});
        });
        tell_stopped(made, made ? remove_template(home, spec.name) : Status(), outcome);
    }
}

int serve() {
    auto home = Home::open();
    if (!home) {
        std::fprintf(stderr, "soak-driver: %s\n", home.error().message.c_str());
        return 70;
    }
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string order;
        words >> order;
        Outcome outcome;
        if (order == "rounds")
            rounds(*home, words, outcome);
        else if (order == "same")
            same(*home, words, outcome);
        else if (order == "stopped")
            stopped(*home, words, outcome);
        else if (order == "stopped-templates")
            stopped_templates(*home, words, outcome);
        else
            return 64;
        std::printf("%s\n", outcome.document().dump().c_str());
        std::fflush(stdout);
    }
    return 0;
}

}  // namespace

}  // namespace spore

int main() {
    return spore::serve();
}
