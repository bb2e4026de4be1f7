#include "hypervisor/network/policy.h"

#include <gmock/gmock.h>

#include <set>

#include "hypervisor/base/network_limits.h"
#include "hypervisor/network/rules.h"

namespace spore {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

NetworkWords egress(std::vector<std::string> allow, std::vector<std::string> deny = {}) {
    return {"egress", std::move(allow), std::move(deny), ""};
}

// The message that the rule is refused with; empty if it is taken.
std::string refusal(const std::string& rule) {
    auto parsed = parse_rule("allow", rule);
    if (parsed)
        return "";
    EXPECT_EQ(parsed.error().code, Code::invalid_argument);
    EXPECT_THAT(parsed.error().message, HasSubstr("allow '"));
    return parsed.error().message;
}

std::string refusal(const NetworkWords& words) {
    auto parsed = parse_policy(words);
    return parsed ? "" : parsed.error().message;
}

TEST(NetworkWords, HaveALineOfTheirOwn) {
    const std::vector<NetworkWords> different = {
        {},
        {"egress", {}, {}, ""},
        {"open", {}, {}, ""},
        {"egress", {"a.example"}, {}, ""},
        {"egress", {}, {"a.example"}, ""},
        {"egress", {"a.example", "b.example"}, {}, ""},
        {"egress", {"a.example"}, {"b.example"}, ""},
        {"egress", {}, {}, "192.0.2.1"},
        {"egress", {"192.0.2.1"}, {}, ""},
    };
    std::set<std::string> lines;
    for (const NetworkWords& words : different)
        EXPECT_TRUE(lines.insert(words.line()).second) << words.line();
    EXPECT_EQ(NetworkWords().line(), "none");
}

TEST(NetworkRule, NamesRangesPortsAndDomains) {
    auto range = *parse_rule("allow", "10.0.0.0/8");
    EXPECT_EQ(range.range, (Ipv4Range{0x0a000000, 8}));
    EXPECT_EQ(range.port, 0);
    auto port = *parse_rule("allow", "192.0.2.7:443");
    EXPECT_EQ(port.range, (Ipv4Range{0xc0000207, 32}));
    EXPECT_EQ(port.port, 443);
    auto name = *parse_rule("allow", "Pypi.ORG.");
    EXPECT_EQ(name.domain, "pypi.org");
    EXPECT_FALSE(name.below);
    auto below = *parse_rule("allow", "*.example.com:8443");
    EXPECT_EQ(below.domain, "example.com");
    EXPECT_TRUE(below.below);
    EXPECT_EQ(below.port, 8443);
    EXPECT_EQ(parse_rule("allow", "0.0.0.0/0")->range.last(), 0xffffffffu);
}

TEST(NetworkRule, RefusesWhatNamesNothing) {
    EXPECT_THAT(refusal(""), HasSubstr("is empty"));
    EXPECT_THAT(refusal(":80"), HasSubstr("has no address"));
    EXPECT_THAT(refusal("10.0.0.0/33"), HasSubstr("from 0 to 32"));
    EXPECT_THAT(refusal("10.0.0.0/"), HasSubstr("from 0 to 32"));
    EXPECT_THAT(refusal("10.0.0.1/8"), HasSubstr("the range is 10.0.0.0/8"));
    EXPECT_THAT(refusal("10.0.0"), HasSubstr("IPv4"));
    EXPECT_THAT(refusal("1.2.3.400"), HasSubstr("IPv4"));
    EXPECT_THAT(refusal("/8"), HasSubstr("IPv4"));
    EXPECT_THAT(refusal("::1"), HasSubstr("IPv6 is off"));
    EXPECT_THAT(refusal("fe80::/10"), HasSubstr("IPv6 is off"));
}

TEST(NetworkRule, RefusesPortsOutOfRange) {
    for (const char* rule : {"10.0.0.0/8:0", "10.0.0.0/8:65536", "a.example:0",
                             "a.example:", "a.example:http", "a.example:-1", "a.example:80x"})
        EXPECT_THAT(refusal(rule), HasSubstr("from 1 to 65535")) << rule;
}

TEST(NetworkRule, RefusesNamesThatCannotBe) {
    std::string label(limits::kDomainLabelBytesMax, 'a');
    EXPECT_EQ(refusal(label + ".example"), "");
    EXPECT_THAT(refusal("a" + label + ".example"), HasSubstr("1 to 63"));
    std::string long_name = label + "." + label + "." + label + "." + std::string(61, 'b');
    ASSERT_EQ(long_name.size(), limits::kDomainBytesMax);
    EXPECT_EQ(refusal(long_name), "");
    EXPECT_THAT(refusal(long_name + "b"), HasSubstr("254 bytes long, at most 253"));
    std::string of_300(300, 'x');
    EXPECT_THAT(refusal(of_300), HasSubstr("300 bytes long, at most 253"));
    EXPECT_THAT(refusal(of_300), Not(HasSubstr(of_300))) << "an error is a line, not a page";
    for (const char* name : {"a..b", ".a", "a b", "-a.example", "a-.example", "*", "*.", "*.*.a",
                             "a.*.b", "b\xc3\xbc.example", "a/24", "x;drop"})
        EXPECT_THAT(refusal(name), HasSubstr("is no address, and no name")) << name;
}

TEST(NetworkPolicy, RefusesOverlaps) {
    EXPECT_THAT(refusal(egress({"10.0.0.0/8", "10.1.0.0/16"})),
                HasSubstr("allow '10.1.0.0/16': overlaps '10.0.0.0/8'"));
    EXPECT_THAT(refusal(egress({"10.1.0.0/16", "10.0.0.0/8"})), HasSubstr("overlaps"));
    EXPECT_THAT(refusal(egress({"a.example", "A.example"})), HasSubstr("overlaps"));
    EXPECT_THAT(refusal(egress({}, {"1.2.3.4", "1.2.3.4"})), HasSubstr("deny '1.2.3.4'"));
    // Other ports, other lists and other names say something of their own.
    EXPECT_EQ(refusal(egress({"10.0.0.0/8:80", "10.0.0.0/8:443"}, {"10.1.0.0/16"})), "");
    EXPECT_EQ(refusal(egress({"a.example", "*.a.example"})), "");
}

TEST(NetworkPolicy, RefusesWhatWouldDoNothingOrMoreThanItSays) {
    EXPECT_THAT(refusal({"none", {"10.0.0.0/8"}, {}, ""}), HasSubstr("takes no --allow"));
    EXPECT_THAT(refusal({"open", {"10.0.0.0/8"}, {}, ""}), HasSubstr("already"));
    EXPECT_THAT(refusal(egress({"169.254.169.254"})), HasSubstr("169.254.0.0/16"));
    EXPECT_THAT(refusal(egress({"198.18.0.0/15"})), HasSubstr("no sandbox can reach"));
    EXPECT_THAT(refusal(egress({"127.0.0.1:53"})), HasSubstr("no sandbox can reach"));
    EXPECT_THAT(refusal(egress({}, {"evil.example"})), HasSubstr("only among names"));
    EXPECT_EQ(refusal(egress({"*.example.com"}, {"evil.example.com"})), "");
    EXPECT_THAT(refusal({"closed", {}, {}, ""}), HasSubstr("none, egress or open"));
    EXPECT_THAT(refusal({"egress", {}, {}, "localhost"}), HasSubstr("dns 'localhost'"));
    EXPECT_THAT(refusal({"egress", {}, {}, "127.0.0.53"}), HasSubstr("dns '127.0.0.53'"));
}

TEST(NetworkPolicy, BoundsTheNumberOfRules) {
    std::vector<std::string> rules;
    for (size_t number = 0; number < limits::kNetworkRulesMax; number++)
        rules.push_back("10.0." + std::to_string(number) + ".0/24");
    EXPECT_EQ(refusal(egress(rules)), "");
    rules.push_back("11.0.0.0/24");
    EXPECT_THAT(refusal(egress(rules)), HasSubstr("257 rules, at most 256"));
}

TEST(Nameserver, IsTheFirstThatASandboxCanReach) {
    EXPECT_EQ(nameserver_in("search a\nnameserver 127.0.0.53\n nameserver 1.1.1.1\n"
                            "nameserver fe80::1\nnameserver\t10.0.0.2 # ours\n"),
              0x0a000002u);
    EXPECT_EQ(nameserver_in("nameserver 9.9.9.9"), 0x09090909u);
    EXPECT_EQ(nameserver_in("nameserver\nnameserver 127.0.0.1\n"), 0u);
    EXPECT_EQ(nameserver_in(""), 0u);
}

TEST(PolicyRules, OpenOnlyWhatIsNamed) {
    auto text = policy_rules(*parse_policy(egress({"10.1.0.0/16:80", "192.0.2.1"})));
    EXPECT_THAT(text, HasSubstr("{ 10.1.0.0/16 . 80 } goto accepted"));
    EXPECT_THAT(text, HasSubstr("ip daddr { 192.0.2.1 } goto accepted"));
    EXPECT_THAT(text, Not(HasSubstr("dnat")));
    EXPECT_THAT(policy_rules({}), Not(HasSubstr("goto accepted")));
}

}  // namespace
}  // namespace spore
