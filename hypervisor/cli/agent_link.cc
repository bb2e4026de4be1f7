#include "hypervisor/cli/agent_link.h"

#include <cstdio>

#include "hypervisor/base/base64.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/sandbox.h"

namespace spore::cli {

namespace {

constexpr std::chrono::seconds kAnswerLimit{20};

// How many bytes the character takes that begins here (RFC 3629 §4); 0: it is none.
size_t utf8_length(std::string_view text) {
    const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char first = byte(0);
    if (first < 0x80)
        return 1;
    const size_t length = first >= 0xc2 && first < 0xe0   ? 2
                          : first >= 0xe0 && first < 0xf0 ? 3
                          : first >= 0xf0 && first < 0xf5 ? 4
                                                          : 0;
    if (length == 0 || text.size() < length)
        return 0;
    for (size_t at = 1; at < length; ++at) {
        if ((byte(at) & 0xc0) != 0x80)
            return 0;
    }
    const bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
    const bool surrogate = first == 0xed && byte(1) >= 0xa0;
    const bool above = first == 0xf4 && byte(1) >= 0x90;
    return overlong || surrogate || above ? 0 : length;
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const size_t length = utf8_length(text);
        if (length == 0)
            return false;
        text.remove_prefix(length);
    }
    return true;
}

}  // namespace

Result<std::shared_ptr<AgentConnection>> link_agent(const std::string& sandbox) {
    const auto home = TRY(Home::open());
    if (!TRY(find_sandbox(home, sandbox)).alive) {
        return fail(Code::unavailable,
                    "sandbox '" + sandbox + "': its VM has ended; restart or destroy it");
    }
    return AgentConnection::over(
        TRY(connect_agent(run_directory(home, sandbox), answer_deadline())));
}

AgentConnection::Deadline answer_deadline() {
    return std::chrono::steady_clock::now() + kAnswerLimit;
}

void set_bytes(nlohmann::json& document, const std::string& name, std::string_view bytes) {
    if (is_utf8(bytes))
        document[name] = bytes;
    else
        document[name + "_base64"] = to_base64(bytes);
}

void print_json_line(const nlohmann::json& document) {
    const std::string text =
        document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
}

}  // namespace spore::cli
