#include "hypervisor/sandbox/code_answers.h"

#include <nlohmann/json.hpp>

#include "hypervisor/base/agent_limits.h"
#include "hypervisor/base/base64.h"

namespace spore {

namespace {

using nlohmann::json;

std::string text_of(const json& document, const char* name) {
    const auto found = document.find(name);
    return found != document.end() && found->is_string() ? found->get<std::string>() : "";
}

// {"text/plain": "42", ...}
RichData data_of(const json& answer) {
    RichData data;
    const auto found = answer.find("data");
    if (found == answer.end() || !found->is_object())
        return data;
    for (const auto& [mime, content] : found->items()) {
        if (content.is_string())
            data.emplace(mime, content.get<std::string>());
    }
    return data;
}

Status take_text(const RunStreams& streams, const std::string& kind, const json& answer) {
    const auto& sink = kind == "stdout" ? streams.on_stdout : streams.on_stderr;
    if (!sink)
        return {};
    if (!answer.contains("base64"))
        return sink(text_of(answer, "text"));
    const auto bytes = from_base64(text_of(answer, "base64"));
    if (!bytes)
        return fail(Code::corrupt, "an answer whose base64 is none");
    return sink(*bytes);
}

}  // namespace

// What is lost is passed over to the next line's begin.
void CodeAnswers::lost() {
    result_.truncated = true;
    skipping_ = true;
}

Status CodeAnswers::take(std::string_view bytes) {
    while (!bytes.empty() && !status_) {
        const size_t newline = bytes.find('\n');
        line_.append(bytes.substr(0, newline));
        if (line_.size() > limits::kContextAnswerBytesMax) {
            return fail(Code::corrupt, "an answer of more than " +
                                           std::to_string(limits::kContextAnswerBytesMax) +
                                           " bytes");
        }
        if (newline == std::string_view::npos)
            return {};
        bytes.remove_prefix(newline + 1);
        const std::string line = std::exchange(line_, {});
        if (!std::exchange(skipping_, false))
            TRY(take_line(line));
    }
    return {};
}

Status CodeAnswers::take_line(std::string_view line) {
    const json answer = json::parse(line, nullptr, false);
    if (!answer.is_object())
        return fail(Code::corrupt, "an answer that is no JSON object");
    const auto run = answer.find("run");
    // Of another run that nobody waits for any more.
    if (run == answer.end() || !run->is_number_unsigned() || run->get<uint64_t>() != run_id_)
        return {};
    return take_answer(text_of(answer, "type"), answer);
}

Status CodeAnswers::take_answer(const std::string& kind, const json& answer) {
    if (kind == "stdout" || kind == "stderr")
        return take_text(streams_, kind, answer);
    if (kind == "display") {
        result_.displays.push_back(data_of(answer));
        return streams_.on_display ? streams_.on_display(result_.displays.back()) : Status{};
    }
    if (kind == "result") {
        result_.result = data_of(answer);
    } else if (kind == "error") {
        result_.error = ContextError{.name = text_of(answer, "name"),
                                     .value = text_of(answer, "value"),
                                     .traceback = text_of(answer, "traceback")};
    } else if (kind == "end") {
        status_ = text_of(answer, "status");
        const auto cut = answer.find("truncated");
        result_.truncated |= cut != answer.end() && cut->is_boolean() && cut->get<bool>();
    }
    return {};
}

}  // namespace spore
