#include "hypervisor/base/rate.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "hypervisor/base/invalid.h"
#include "hypervisor/base/parse_size.h"
#include "hypervisor/base/quota_limits.h"

namespace spore {

namespace {

Result<uint64_t> parse_count(std::string_view what, std::string_view text) {
    uint64_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size())
        return invalid(what, text, "is not a number");
    return number;
}

Status check_rate(std::string_view what, const Rate& rate, std::string_view unit, uint64_t least,
                  uint64_t most) {
    auto bounds = [&](uint64_t from) {
        return "must be from " + std::to_string(from) + " to " + std::to_string(most);
    };
    if (rate.limited() && (rate.per_second < least || rate.per_second > most))
        return invalid(what, std::to_string(rate.per_second),
                       std::string(unit) + " a second " + bounds(least));
    if (rate.limited() && (rate.burst < 1 || rate.burst > most))
        return invalid(what, std::to_string(rate.burst),
                       "a burst of " + std::string(unit) + " " + bounds(1));
    return {};
}

void choose_burst(Rate& rate, uint64_t least) {
    if (rate.limited() && rate.burst == 0)
        rate.burst = std::max(rate.per_second / limits::kBurstDivisor, least);
}

std::string rate_text(const Rate& rate, const std::string& name, const std::string& burst_name) {
    return name + std::to_string(rate.per_second) + "," + burst_name + std::to_string(rate.burst);
}

}  // namespace

Status check_rate_limits(std::string_view what, const RateLimits& limits, std::string_view unit) {
    TRY(check_rate(what, limits.bytes, "bytes", limits::kRateBytesMin, limits::kRateBytesMax));
    return check_rate(what, limits.operations, unit, limits::kRateOperationsMin,
                      limits::kRateOperationsMax);
}

Result<RateLimits> parse_rate_limits(std::string_view what, std::string_view text,
                                     std::string_view unit) {
    RateLimits limits;
    if (text == "none")
        return limits;
    std::string unit_burst = std::string(unit) + "-burst";
    std::string_view rest = text;
    for (bool more = true; more;) {
        size_t comma = rest.find(',');
        std::string_view part = rest.substr(0, comma);
        more = comma != std::string_view::npos;
        rest.remove_prefix(more ? comma + 1 : rest.size());
        size_t equals = part.find('=');
        bool plain = equals == std::string_view::npos;
        std::string_view key = plain ? "" : part.substr(0, equals);
        std::string_view value = plain ? part : part.substr(equals + 1);
        if (plain)
            limits.bytes.per_second = TRY(parse_size(what, value));
        else if (key == unit)
            limits.operations.per_second = TRY(parse_count(what, value));
        else if (key == "burst")
            limits.bytes.burst = TRY(parse_size(what, value));
        else if (key == unit_burst)
            limits.operations.burst = TRY(parse_count(what, value));
        else
            return invalid(what, text,
                           "'" + std::string(part) + "' is not BYTES, " + std::string(unit) +
                               "=N, burst=BYTES or " + unit_burst + "=N");
        if (plain ? limits.bytes.per_second == 0 : value == "0")
            return invalid(what, text, "0 lets nothing pass; for no limit say none");
    }
    if (limits.bytes.burst != 0 && !limits.bytes.limited())
        return invalid(what, text, "burst= goes with a rate of bytes");
    if (limits.operations.burst != 0 && !limits.operations.limited())
        return invalid(what, text, unit_burst + "= goes with " + std::string(unit) + "=");
    choose_burst(limits.bytes, limits::kBurstBytesLeast);
    choose_burst(limits.operations, limits::kBurstOperationsLeast);
    TRY(check_rate_limits(what, limits, unit));
    return limits;
}

std::string rate_limits_text(const RateLimits& limits, std::string_view unit) {
    std::string text;
    if (limits.bytes.limited())
        text = rate_text(limits.bytes, "", "burst=");
    std::string name(unit);
    if (limits.operations.limited())
        text +=
            (text.empty() ? "" : ",") + rate_text(limits.operations, name + "=", name + "-burst=");
    return text.empty() ? "none" : text;
}

}  // namespace spore
