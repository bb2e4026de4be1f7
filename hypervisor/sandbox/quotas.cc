#include "hypervisor/sandbox/quotas.h"

#include <unistd.h>

#include <charconv>

#include "hypervisor/base/invalid.h"
#include "hypervisor/base/parse_size.h"
#include "hypervisor/base/quota_limits.h"

namespace spore {

namespace {

constexpr std::string_view kNone = "none";

Result<uint32_t> parse_number(std::string_view what, std::string_view text, uint32_t least,
                              uint32_t most) {
    if (text == kNone)
        return uint32_t{0};
    uint32_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < least || number > most)
        return invalid(what, text,
                       "must be a number from " + std::to_string(least) + " to " +
                           std::to_string(most) + ", or none");
    return number;
}

// "0.5" → 500, "2" → 2000.
Result<uint32_t> parse_cpus(std::string_view text) {
    if (text == kNone)
        return uint32_t{0};
    constexpr size_t kDigits = 3;
    auto refuse = [&] {
        return invalid("cpu-max", text,
                       "must be a number of processors such as 0.5, with at most 3 digits behind "
                       "the point, or none");
    };
    size_t point = text.find('.');
    std::string digits(text.substr(0, point));
    std::string rest(point == std::string_view::npos ? "" : text.substr(point + 1));
    if (digits.empty() || digits.size() > 5 || rest.size() > kDigits ||
        (point != std::string_view::npos && rest.empty()))
        return refuse();
    rest.append(kDigits - rest.size(), '0');
    digits += rest;
    uint32_t millis = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), millis);
    if (error != std::errc() || end != digits.data() + digits.size())
        return refuse();
    if (millis < limits::kCpuMaxMillisMin)
        return invalid("cpu-max", text, "must be at least 0.05: a guest needs that to answer");
    return millis;
}

Result<uint64_t> parse_memory(std::string_view text) {
    if (text == kNone)
        return uint64_t{0};
    uint64_t bytes = TRY(parse_size("memory-max", text));
    if (bytes < limits::kMemoryMaxMin)
        return invalid("memory-max", text,
                       "must be at least " + std::to_string(limits::kMemoryMaxMin / limits::kMiB) +
                           "M: a guest needs that to run commands");
    return bytes;
}

Result<uint64_t> parse_disk(std::string_view text) {
    if (text == kNone)
        return uint64_t{0};
    uint64_t bytes = TRY(parse_size("disk-max", text));
    if (bytes == 0 || bytes % limits::kDiskMaxUnit != 0 || bytes > limits::kLayeredDiskBytesMax)
        return invalid("disk-max", text,
                       "must be a multiple of 4K, at most " +
                           std::to_string(limits::kLayeredDiskBytesMax / limits::kGiB) + "G");
    return bytes;
}

}  // namespace

Result<Quotas> with_words(Quotas quotas, const QuotaWords& words) {
    if (words.cpu_max)
        quotas.cpu_max_millis = TRY(parse_cpus(*words.cpu_max));
    if (words.cpu_weight)
        quotas.cpu_weight =
            TRY(parse_number("cpu-weight", *words.cpu_weight, 1, limits::kCpuWeightMax));
    if (words.memory_max)
        quotas.memory_max = TRY(parse_memory(*words.memory_max));
    if (words.pids_max)
        quotas.pids_max = TRY(
            parse_number("pids-max", *words.pids_max, limits::kPidsMaxMin, limits::kPidsMaxMax));
    if (words.disk_max)
        quotas.disk_max = TRY(parse_disk(*words.disk_max));
    if (words.io_max)
        quotas.io = TRY(parse_rate_limits("io-max", *words.io_max, "ops"));
    if (words.net_max)
        quotas.net = TRY(parse_rate_limits("net-max", *words.net_max, "packets"));
    return quotas;
}

Status check_quotas(const Quotas& quotas, const QuotaBounds& bounds) {
    uint32_t cpus = bounds.host_cpus;
    // Online, not those this process may run on: sandboxes are not bound to the same. One there
    // is, and it takes a file to know of more.
    if (cpus == 0 && quotas.cpu_max_millis <= 1000)
        cpus = 1;
    else if (cpus == 0)
        cpus = static_cast<uint32_t>(::sysconf(_SC_NPROCESSORS_ONLN));
    if (quotas.cpu_max_millis > cpus * 1000)
        return fail(Code::resource_exhausted,
                    "cpu-max '" + std::to_string(quotas.cpu_max_millis / 1000) + "." +
                        std::to_string(1000 + quotas.cpu_max_millis % 1000).substr(1) +
                        "': this host has " + std::to_string(cpus) + " processors");
    if (bounds.guest_memory_bytes != 0 && quotas.memory_max > bounds.guest_memory_bytes)
        return fail(Code::resource_exhausted, "memory-max '" + std::to_string(quotas.memory_max) +
                                                  "': the template's guest has " +
                                                  std::to_string(bounds.guest_memory_bytes) +
                                                  " bytes of memory");
    if (bounds.disk_bytes != 0 && quotas.disk_max < bounds.disk_bytes)
        return fail(
            Code::invalid_argument,
            "disk-max '" +
                (quotas.disk_max == 0 ? std::string(kNone) : std::to_string(quotas.disk_max)) +
                "': its disk has " + std::to_string(bounds.disk_bytes) +
                " bytes already, and can only grow");
    return {};
}

uint64_t vmm_overhead_bytes(uint64_t memory_bytes, uint64_t disk_bytes) {
    constexpr uint64_t kPageTablesDivisor = 4096 / (3 * sizeof(uint64_t));
    constexpr uint64_t kMapDivisor = 4096 * 8;  // a bit for each cluster
    return limits::kVmmOwnBytes + memory_bytes / kPageTablesDivisor + disk_bytes / kMapDivisor;
}

uint64_t commands_memory_bytes(uint64_t memory_max) {
    return memory_max == 0 ? 0 : memory_max - limits::kGuestOwnBytes;
}

}  // namespace spore
