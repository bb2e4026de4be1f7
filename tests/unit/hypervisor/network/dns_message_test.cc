#include "hypervisor/network/dns_message.h"

#include <gmock/gmock.h>

#include "hypervisor/base/network_limits.h"

namespace spore {
namespace {

std::vector<std::byte> bytes(const std::string& text) {
    auto span = std::as_bytes(std::span(text));
    return {span.begin(), span.end()};
}

// dig a.example: one question, and an additional record of EDNS.
const std::string kQuestion(
    "\x12\x34\x01\x20\0\1\0\0\0\0\0\1\1A\7eXample\0\0\1\0\1\0\0\x29\x10\0\0\0\0\0\0\0", 38);

TEST(DnsMessage, ReadsAQuestion) {
    auto question = parse_question(bytes(kQuestion));
    ASSERT_TRUE(question) << question.error().message;
    EXPECT_EQ(question->id, 0x1234);
    EXPECT_EQ(question->name, "a.example");
    EXPECT_EQ(question->type, kDnsTypeA);
    EXPECT_TRUE(question->recursion_desired);
}

TEST(DnsMessage, RefusesWhatIsNoQuestion) {
    for (size_t size = 0; size < 27; size++)
        EXPECT_FALSE(parse_question(bytes(kQuestion.substr(0, size)))) << size;
    auto changed = [](size_t at, char to) {
        std::string text = kQuestion;
        text[at] = to;
        return bytes(text);
    };
    EXPECT_FALSE(parse_question(changed(2, '\x81'))) << "an answer";
    EXPECT_FALSE(parse_question(changed(2, '\x29'))) << "another operation";
    EXPECT_FALSE(parse_question(changed(5, 2))) << "two questions";
    EXPECT_FALSE(parse_question(changed(12, '\xc0'))) << "a pointer";
    EXPECT_FALSE(parse_question(changed(13, '.'))) << "a dot within a label";
    EXPECT_FALSE(parse_question(changed(13, '\n')));
    EXPECT_FALSE(parse_question(changed(26, 3))) << "another class";
}

TEST(DnsMessage, AnswersComeBackAsTheyWere) {
    DnsQuestion question{7, true, "x.a.example", kDnsTypeA};
    DnsAnswer answer{DnsStatus::ok, {{0x01020304, 60}, {0x05060708, 5}}};
    auto message = make_answer(question, answer);
    auto read = parse_answer(message, question, 7);
    ASSERT_TRUE(read);
    ASSERT_EQ(read->addresses.size(), 2u);
    EXPECT_EQ(read->addresses[0].address, 0x01020304u);
    EXPECT_EQ(read->addresses[1].ttl_seconds, 5u);
    EXPECT_FALSE(parse_answer(message, question, 8)) << "another's";
    question.name = "y.a.example";
    EXPECT_FALSE(parse_answer(message, question, 7)) << "another name's";
    for (size_t size = 0; size < message.size(); size++)
        (void)parse_answer(std::span(message).first(size), question, 7);
}

TEST(DnsMessage, TheLeastTtlOnTheWayCounts) {
    DnsQuestion question{7, true, "a.example", kDnsTypeA};
    auto message = make_answer(question, {DnsStatus::ok, {}});
    message[7] = std::byte{2};
    // a.example CNAME (root) for 9 s; then an A record for a day.
    for (const std::string& record :
         {std::string("\xc0\x0c\0\5\0\1\0\0\0\x09\0\1\0", 13),
          std::string("\xc0\x0c\0\1\0\1\0\1\x51\x80\0\4\1\2\3\4", 16)}) {
        auto more = bytes(record);
        message.insert(message.end(), more.begin(), more.end());
    }
    auto read = parse_answer(message, question, 7);
    ASSERT_TRUE(read);
    ASSERT_EQ(read->addresses.size(), 1u);
    EXPECT_EQ(read->addresses[0].ttl_seconds, 9u);
}

TEST(DnsMessage, AnAnswerFitsAPacketAndIsBounded) {
    DnsQuestion question{7, true, std::string(limits::kDomainLabelBytesMax, 'a'), kDnsTypeA};
    for (int label = 0; label < 2; label++)
        question.name += "." + std::string(limits::kDomainLabelBytesMax, 'b');
    question.name += "." + std::string(61, 'c');
    ASSERT_EQ(question.name.size(), limits::kDomainBytesMax);
    DnsAnswer answer{DnsStatus::ok, {}};
    for (uint32_t number = 0; number < 100; number++)
        answer.addresses.push_back({number, 1});
    auto read = parse_answer(make_answer(question, answer), question, 7);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->addresses.size(), limits::kDnsAddressesMax);
    EXPECT_LE(make_answer(question, *read).size(), 512u);
    EXPECT_TRUE(parse_question(make_query(question, 1)));
}

}  // namespace
}  // namespace spore
