#include "hypervisor/network/dns_message.h"

#include <algorithm>

#include "hypervisor/base/network_limits.h"

namespace spore {

namespace {

constexpr size_t kHeaderBytes = 12;
constexpr uint16_t kClassIn = 1, kTypeCname = 5;
constexpr uint16_t kResponse = 0x8000, kOpcode = 0x7800, kRecursionDesired = 0x0100,
                   kRecursionAvailable = 0x0080, kStatus = 0x000f;

// Reads forwards, and never beyond the end: what is missing makes it broken.
class Reader {
  public:
    explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    bool broken() const { return broken_; }
    uint8_t u8() {
        if (at_ >= bytes_.size()) {
            broken_ = true;
            return 0;
        }
        return static_cast<uint8_t>(bytes_[at_++]);
    }
    uint16_t u16() {
        unsigned high = u8();
        return static_cast<uint16_t>(high << 8 | u8());
    }
    uint32_t u32() {
        uint32_t high = u16();
        return high << 16 | u16();
    }
    void skip(size_t count) {
        broken_ = broken_ || count > bytes_.size() - at_;
        at_ = broken_ ? at_ : at_ + count;
    }
    // A name without pointers, as text; broken if it has other bytes than names of rules have.
    std::string plain_name() {
        std::string name;
        for (unsigned length = u8(); length != 0 && !broken_; length = u8()) {
            if (length > limits::kDomainLabelBytesMax ||
                name.size() + length > limits::kDomainBytesMax)
                broken_ = true;
            if (!name.empty())
                name += '.';
            for (unsigned byte = 0; byte < length && !broken_; byte++)
                name += letter(u8());
        }
        return name;
    }
    // Of a record: its text does not matter, as we look only at addresses.
    void skip_name() {
        for (;;) {
            unsigned length = u8();
            if (length >= 0xc0) {
                (void)u8();
                return;
            }
            if (length == 0 || broken_)
                return;
            skip(length);
        }
    }

  private:
    char letter(uint8_t byte) {
        char c = static_cast<char>(byte);
        if (c >= 'A' && c <= 'Z')
            return static_cast<char>(c - 'A' + 'a');
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
            broken_ = true;
        return c;
    }

    std::span<const std::byte> bytes_;
    size_t at_ = 0;
    bool broken_ = false;
};

class Writer {
  public:
    void u8(unsigned value) { bytes_.push_back(static_cast<std::byte>(value)); }
    void u16(unsigned value) {
        u8(value >> 8 & 0xff);
        u8(value & 0xff);
    }
    void u32(uint32_t value) {
        u16(value >> 16);
        u16(value & 0xffff);
    }
    void name(const std::string& text) {
        for (size_t from = 0; from < text.size();) {
            size_t dot = std::min(text.find('.', from), text.size());
            u8(static_cast<unsigned>(dot - from));
            for (; from < dot; from++)
                u8(static_cast<unsigned char>(text[from]));
            from = dot + 1;
        }
        u8(0);
    }
    void header(uint16_t id, unsigned flags, size_t answers) {
        u16(id);
        u16(flags);
        u16(1);
        u16(static_cast<unsigned>(answers));
        u32(0);
    }
    std::vector<std::byte> take() { return std::move(bytes_); }

  private:
    std::vector<std::byte> bytes_;
};

}  // namespace

Result<DnsQuestion> parse_question(std::span<const std::byte> message) {
    Reader reader(message);
    DnsQuestion question;
    question.id = reader.u16();
    unsigned flags = reader.u16();
    question.recursion_desired = (flags & kRecursionDesired) != 0;
    unsigned questions = reader.u16();
    reader.skip(6);  // an additional record may be EDNS; nothing of it is used
    question.name = reader.plain_name();
    question.type = reader.u16();
    unsigned type_class = reader.u16();
    if (reader.broken() || (flags & (kResponse | kOpcode)) != 0 || questions != 1 ||
        type_class != kClassIn)
        return fail(Code::invalid_argument, "dns: is not a query with one question");
    return question;
}

std::vector<std::byte> make_query(const DnsQuestion& question, uint16_t id) {
    Writer writer;
    writer.header(id, kRecursionDesired, 0);
    writer.name(question.name);
    writer.u16(kDnsTypeA);
    writer.u16(kClassIn);
    return writer.take();
}

std::optional<DnsAnswer> parse_answer(std::span<const std::byte> message,
                                      const DnsQuestion& question, uint16_t id) {
    Reader reader(message);
    bool ours = reader.u16() == id;
    unsigned flags = reader.u16();
    ours = ours && (flags & kResponse) != 0 && reader.u16() == 1;
    unsigned records = reader.u16();
    reader.skip(4);
    ours = ours && reader.plain_name() == question.name && reader.u16() == kDnsTypeA &&
           reader.u16() == kClassIn;
    if (!ours || reader.broken())
        return std::nullopt;
    DnsAnswer answer;
    answer.status = static_cast<DnsStatus>(flags & kStatus);
    uint32_t way_ttl = limits::kDnsTtlSecondsMax;
    for (unsigned record = 0; record < records && !reader.broken(); record++) {
        reader.skip_name();
        unsigned type = reader.u16(), type_class = reader.u16();
        uint32_t ttl = std::min(reader.u32(), limits::kDnsTtlSecondsMax);
        unsigned length = reader.u16();
        if (type == kTypeCname)
            way_ttl = std::min(way_ttl, ttl);
        if (type != kDnsTypeA || type_class != kClassIn || length != 4)
            reader.skip(length);
        else if (uint32_t address = reader.u32();
                 !reader.broken() && answer.addresses.size() < limits::kDnsAddressesMax)
            answer.addresses.push_back({address, ttl});
    }
    // A truncated one is good as far as it goes.
    for (DnsAddress& address : answer.addresses)
        address.ttl_seconds = std::min(address.ttl_seconds, way_ttl);
    return answer;
}

std::vector<std::byte> make_answer(const DnsQuestion& question, const DnsAnswer& answer) {
    Writer writer;
    writer.header(question.id,
                  kResponse | kRecursionAvailable |
                      (question.recursion_desired ? kRecursionDesired : 0u) |
                      static_cast<unsigned>(answer.status),
                  answer.addresses.size());
    writer.name(question.name);
    writer.u16(question.type);
    writer.u16(kClassIn);
    for (const DnsAddress& address : answer.addresses) {
        writer.u16(0xc000 | kHeaderBytes);  // the question's name
        writer.u16(kDnsTypeA);
        writer.u16(kClassIn);
        writer.u32(address.ttl_seconds);
        writer.u16(4);
        writer.u32(address.address);
    }
    return writer.take();
}

}  // namespace spore
