// A DNS message of any bytes: as a question and as an answer it is taken or not, within its bounds,
// and what is made of it can be read again.
#include <cstdlib>

#include "hypervisor/base/network_limits.h"
#include "hypervisor/network/dns_message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    auto message = std::as_bytes(std::span(data, size));
    if (auto question = parse_question(message)) {
        if (question->name.size() > limits::kDomainBytesMax)
            std::abort();
        auto again = parse_question(make_query(*question, 5));
        if (!again || again->name != question->name)
            std::abort();
    }
    DnsQuestion asked{0, true, "a.example", kDnsTypeA};
    uint16_t id = size >= 2 ? static_cast<uint16_t>(data[0] << 8 | data[1]) : 0;
    auto answer = parse_answer(message, asked, id);
    if (!answer)
        return 0;
    if (answer->addresses.size() > limits::kDnsAddressesMax)
        std::abort();
    for (const DnsAddress& address : answer->addresses) {
        if (address.ttl_seconds > limits::kDnsTtlSecondsMax)
            std::abort();
    }
    auto again = parse_answer(make_answer(asked, *answer), asked, 0);
    if (!again || again->addresses.size() != answer->addresses.size())
        std::abort();
    return 0;
}
