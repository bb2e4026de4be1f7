// What sandboxes may use and reach.

#include "hypervisor/api/limit_words.h"

#include <cstdio>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"
#include "hypervisor/api/usage_words.h"
#include "hypervisor/sandbox/card.h"

namespace spore {

namespace {

using std::chrono::milliseconds;

// As the command line waits: for VMM and agent, however long the call's own deadline is.
constexpr milliseconds kUsageLimit{2'000};
constexpr milliseconds kUpdateLimit{10'000};

// The words of the command line: one parser has all of the bounds.
std::string text_of(uint64_t number) {
    return number == 0 ? "none" : std::to_string(number);
}

std::string text_of(double cpus) {
    if (cpus == 0)
        return "none";
    char text[64];
    std::snprintf(text, sizeof(text), "%.3f", cpus);
    return text;
}

std::string text_of(const Throughput& limit, const std::string& unit) {
    std::string text;
    const auto add = [&](const std::string& key, uint64_t value) {
        if (value != 0)
            text += (text.empty() ? "" : ",") + key + std::to_string(value);
    };
    add("", limit.bytes);
    add(unit + "=", limit.operations);
    add("burst=", limit.bytes_burst);
    add(unit + "-burst=", limit.operations_burst);
    return text.empty() ? "none" : text;
}

milliseconds limit_of(const Call& call, milliseconds longest) {
    const auto left =
        std::chrono::ceil<milliseconds>(call.deadline - std::chrono::steady_clock::now());
    return std::clamp(left, milliseconds(0), longest);
}

Status not_cancelled(const Call& call) {
    if (call.stop.stop_requested())
        return fail(Code::unavailable, "the call was cancelled before it began");
    if (limit_of(call, kUpdateLimit) == milliseconds(0))
        return fail(Code::timeout, "the call's deadline was over before it began");
    return {};
}

}  // namespace

QuotaWords words_of(const Limits& limits) {
    QuotaWords words;
    if (limits.cpus)
        words.cpu_max = text_of(*limits.cpus);
    if (limits.cpu_weight)
        words.cpu_weight = text_of(uint64_t{*limits.cpu_weight});
    if (limits.memory_bytes)
        words.memory_max = text_of(*limits.memory_bytes);
    if (limits.processes)
        words.pids_max = text_of(uint64_t{*limits.processes});
    if (limits.disk)
        words.io_max = text_of(*limits.disk, "ops");
    if (limits.network)
        words.net_max = text_of(*limits.network, "packets");
    return words;
}

NetworkWords words_of(const NetworkAccess& access) {
    using Mode = NetworkAccess::Mode;
    // A value that is none of them is refused as a word is.
    const char* const mode = access.mode == Mode::none     ? "none"
                             : access.mode == Mode::egress ? "egress"
                             : access.mode == Mode::open   ? "open"
                                                           : "?";
    return {.mode = mode, .allow = access.allow, .deny = access.deny, .dns = access.dns};
}

inline namespace v1 {

Result<Usage> Sandbox::usage(const Call& call) const {
    return guarded([&]() -> Result<Usage> {
        TRY(not_cancelled(call));
        TRY(impl_->running());
        const auto info = TRY(find_sandbox(impl_->home, id()));
        return usage_of(TRY(sandbox_stats(impl_->home, info, limit_of(call, kUsageLimit))));
    });
}

Result<std::vector<Usage::Missing>> Sandbox::update(const Limits& limits, const Call& call) const {
    return guarded([&]() -> Result<std::vector<Usage::Missing>> {
        TRY(not_cancelled(call));
        TRY(impl_->running());
        return missing_of(
            TRY(update_sandbox(impl_->home, id(), words_of(limits), limit_of(call, kUpdateLimit)))
                .unenforced);
    });
}

Status Sandbox::update(const NetworkAccess& access, const Call& call) const {
    return guarded([&]() -> Status {
        TRY(not_cancelled(call));
        TRY(impl_->running());
        return update_network(impl_->home, id(), words_of(access));
    });
}

}  // namespace v1
}  // namespace spore
