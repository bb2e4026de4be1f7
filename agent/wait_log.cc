// WaitLog: the first line of a process's output that has something in it.

#include <array>

#include "agent/expression.h"
#include "agent/process_streams.h"
#include "agent/timer.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// One expression or text to look for.
class Pattern {
  public:
    static Result<Pattern> of(const wire::WaitLog& request) {
        Pattern pattern;
        const auto bytes = view(request.pattern());
        pattern.text_.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        if (request.expression()) {
            pattern.expression_ = TRY(Expression::compile(pattern.text_));
        } else if (pattern.text_.size() > limits::kLogLineBytesMax) {
            return fail(Code::invalid_argument, "text of " + std::to_string(bytes.size()) +
                                                    " bytes: a line has at most " +
                                                    std::to_string(limits::kLogLineBytesMax));
        }
        return pattern;
    }
    std::optional<Expression::Match> find(std::string_view line) const {
        if (expression_)
            return expression_->find(line);
        const size_t at = line.find(text_);
        if (at == std::string_view::npos)
            return std::nullopt;
        return Expression::Match{at, text_.size()};
    }

  private:
    std::string text_;
    std::optional<Expression> expression_;
};

class LineStream final : public ProcessStream {
  public:
    LineStream(const Request& request, Process& process, Pattern pattern)
        : ProcessStream(request, &process),
          pattern_(std::move(pattern)),
          cursor_(request.body<wire::WaitLog>().from()) {
        timeout_.set_timeout_ms(request.body<wire::WaitLog>().timeout_ms());
        want_turn();
    }
    void on_change() override { want_turn(); }

  private:
    // One record is a turn: some lines, or a piece of one.
    bool turn() override;
    bool look_at(const ProcessLog::Record& record);
    // False: it has matched, and all is done.
    bool end_line(uint8_t fd, uint64_t sequence);
    void add(std::string& line, std::string_view piece);

    Pattern pattern_;
    LogCursor cursor_;
    uint64_t last_sequence_ = 0;
    std::array<std::string, 2> lines_;  // of stdout and stderr, as far as they have come
    Timer timeout_{
        server_.timers(), [this] {
            if (!done())
                finish(Error{Code::timeout, "process " + std::to_string(process_->id()) +
                                                ": wrote no such line within the time allowed"});
        }};
};

bool LineStream::turn() {
    if (const auto* record = cursor_.peek(process_->log())) {
        // Where lines were lost the rest of one is not taken for its begin's.
        if (cursor_.pass(*record) > 0)
            lines_ = {};
        return look_at(*record);
    }
    if (!process_->ended())
        return false;
    for (uint8_t fd = 1; fd <= 2; ++fd) {
        if (!lines_[fd - 1].empty() && !end_line(fd, last_sequence_))
            return false;
    }
    finish_with_end();
    return false;
}

bool LineStream::look_at(const ProcessLog::Record& record) {
    last_sequence_ = record.sequence;
    std::string_view rest = record.bytes;
    while (!rest.empty()) {
        const size_t newline = rest.find('\n');
        add(lines_[record.fd - 1], rest.substr(0, newline));
        if (newline == std::string_view::npos)
            break;
        rest.remove_prefix(newline + 1);
        if (!end_line(record.fd, record.sequence))
            return false;
    }
    return true;
}

void LineStream::add(std::string& line, std::string_view piece) {
    line.append(piece.substr(0, limits::kLogLineBytesMax - line.size()));
}

bool LineStream::end_line(uint8_t fd, uint64_t sequence) {
    std::string& line = lines_[fd - 1];
    const auto match = pattern_.find(line);
    if (match) {
        auto& buffer = connection_.buffer();
        const auto bytes =
            buffer.CreateVector(reinterpret_cast<const uint8_t*>(line.data()), line.size());
        finish(wire::CreateLogMatch(buffer, bytes, static_cast<uint32_t>(match->begin),
                                    static_cast<uint32_t>(match->length), sequence));
    }
    line.clear();
    return !match;
}

}  // namespace

Result<std::unique_ptr<Stream>> serve_wait_log(const Request& request) {
    const auto& wait = request.body<wire::WaitLog>();
    Process* process = TRY(named_process(request.server.processes(), wait));
    return std::make_unique<LineStream>(request, *process, TRY(Pattern::of(wait)));
}

}  // namespace spore
