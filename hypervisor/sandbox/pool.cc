#include "hypervisor/sandbox/pool.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/small_file.h"
#include "hypervisor/base/tell_ready.h"
#include "hypervisor/sandbox/pool_directory.h"
#include "hypervisor/sandbox/pool_keeper.h"

namespace spore {

namespace stdfs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace {

constexpr auto kStopLimit = std::chrono::seconds(60);

Status write_info(const stdfs::path& directory, const PoolSpec& spec) {
    auto self = TRY(identify_process(::getpid()));
    nlohmann::json info = {{"parked", spec.parked},
                           {"ready", spec.ready},
                           {"pid", self.pid},
                           {"pid_start_ticks", self.start_ticks}};
    return replace_file(directory / pool_files::kInfo, info.dump() + "\n");
}

// What the keeper wrote of itself; nothing if there is none.
std::optional<nlohmann::json> read_info(const stdfs::path& directory) {
    std::ifstream file(directory / pool_files::kInfo);
    auto info = nlohmann::json::parse(file, nullptr, false);
    for (const char* field : {"parked", "ready", "pid", "pid_start_ticks"}) {
        if (!info.is_object() || !info.contains(field) || !info[field].is_number_unsigned())
            return std::nullopt;
    }
    return info;
}

Status check(const PoolSpec& spec) {
    TRY(check_name("template", spec.template_name));
    uint64_t sum = uint64_t{spec.parked} + spec.ready;
    if (sum == 0 || sum > limits::kPoolSizeMax)
        return fail(Code::invalid_argument,
                    "pool '" + spec.template_name + "': " + std::to_string(sum) +
                        " clones, must be 1 to " + std::to_string(limits::kPoolSizeMax));
    return {};
}

}  // namespace

std::string_view source_name(CloneSource source) {
    switch (source) {
        case CloneSource::cold:
            return "cold";
        case CloneSource::ready:
            return "ready";
        case CloneSource::parked:
            return "parked";
    }
    return "unknown";
}

Status start_pool(const Home& home, const PoolSpec& spec, std::chrono::milliseconds limit) {
    TRY(check(spec));
    TRY(load_template(home, spec.template_name));
    if (has_pool(home, spec.template_name))
        TRY(stop_pool(home, spec.template_name));
    stdfs::path directory = home.pools() / spec.template_name;
    std::error_code error;
    stdfs::create_directories(directory, error);
    auto program = TRY(Home::program("spore"));
    auto keeper = start_process(
        program,
        {"spore", "pool", "keep", spec.template_name, "--parked", std::to_string(spec.parked),
         "--ready", std::to_string(spec.ready), "--ready-fd", "3"},
        directory, directory / pool_files::kLog, Clock::now() + limit);
    if (!keeper)
        return std::unexpected(
            std::move(keeper).error().within("pool '" + spec.template_name + "'"));
    return {};
}

Status stop_pool(const Home& home, const std::string& template_name) {
    TRY(check_name("template", template_name));
    stdfs::path directory = home.pools() / template_name;
    if (!stdfs::exists(directory))
        return fail(Code::not_found, "pool '" + template_name + "': there is none");
    // One that has just begun has not yet written who it is.
    auto deadline = Clock::now() + kStopLimit;
    while (keeper_lives(directory)) {
        if (Clock::now() > deadline)
            return fail(Code::unavailable, "pool '" + template_name + "': its keeper does not end");
        if (auto info = read_info(directory)) {
            ProcessIdentity keeper{(*info)["pid"].get<int>(),
                                   (*info)["pid_start_ticks"].get<uint64_t>()};
            TRY(end_process(keeper, SIGTERM, deadline));
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    TRY(remove_pool(directory));
    clear_cgroups();
    return {};
}

Result<std::vector<PoolInfo>> list_pools(const Home& home) {
    std::vector<PoolInfo> pools;
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(home.pools(), error)) {
        PoolInfo info;
        info.spec.template_name = entry.path().filename();
        if (!check_name("template", info.spec.template_name))
            continue;
        info.alive = keeper_lives(entry.path());
        if (!info.alive) {
            TRY(clear_if_abandoned_pool(entry.path()));
        } else if (auto document = read_info(entry.path())) {
            info.spec.parked = (*document)["parked"].get<uint32_t>();
            info.spec.ready = (*document)["ready"].get<uint32_t>();
            info.keeper_pid = (*document)["pid"].get<int>();
        }
        for (const auto& clone : stdfs::directory_iterator(entry.path(), error)) {
            std::string name = clone.path().filename();
            info.parked += is_clone(name, CloneSource::parked);
            info.ready += is_clone(name, CloneSource::ready);
        }
        pools.push_back(std::move(info));
    }
    clear_cgroups();
    std::ranges::sort(pools, {}, [](const PoolInfo& info) { return info.spec.template_name; });
    return pools;
}

bool has_pool(const Home& home, const std::string& template_name) {
    return keeper_lives(home.pools() / template_name);
}

Result<std::optional<TakenClone>> take_clone(const Home& home, const std::string& template_name,
                                             const stdfs::path& directory) {
    stdfs::path pool = home.pools() / template_name;
    std::error_code error;
    std::vector<std::string> names;
    for (const auto& entry : stdfs::directory_iterator(pool, error))
        names.push_back(entry.path().filename());
    for (CloneSource source : {CloneSource::parked, CloneSource::ready}) {
        for (const std::string& name : names) {
            if (!is_clone(name, source))
                continue;
            auto lock = DirectoryLock::take(pool / name);
            if (!lock)
                continue;  // somebody was quicker
            if (::renameat2(AT_FDCWD, (pool / name).c_str(), AT_FDCWD, directory.c_str(),
                            RENAME_NOREPLACE) == 0)
                return TakenClone{source, std::move(*lock)};
            if (errno != ENOENT)
                return fail_errno(directory.string());
        }
    }
    return std::optional<TakenClone>();
}

Status keep_pool(const Home& home, const PoolSpec& spec, int ready) {
    sigset_t ends;
    sigemptyset(&ends);
    for (int number : {SIGTERM, SIGINT, SIGHUP})
        sigaddset(&ends, number);
    ::sigprocmask(SIG_BLOCK, &ends, nullptr);
    UniqueFd signals(::signalfd(-1, &ends, SFD_CLOEXEC));
    auto begin = [&]() -> Result<PoolKeeper> {
        TRY(check(spec));
        auto keeper = TRY(PoolKeeper::begin(home, spec, signals.get()));
        TRY(write_info(home.pools() / spec.template_name, spec));
        TRY(keeper.start_zygote(Clock::now() + std::chrono::seconds(60)));
        TRY(keeper.fill());
        return keeper;
    };
    auto keeper = begin();
    if (!tell_ready(UniqueFd(ready), keeper ? Status() : std::unexpected(keeper.error())))
        return fail_errno("telling that the pool is full");
    if (!keeper)
        return std::unexpected(std::move(keeper).error());
    return keeper->serve();
}

}  // namespace spore
