// Searching: all states that the text so far may have led to, side by side.

#include "agent/expression.h"

namespace spore {

// One text.
class Expression::Search {
  public:
    Search(const Expression& expression, std::string_view text)
        : expression_(expression), text_(text), seen_(expression.steps_.size(), 0) {}

    std::optional<Match> run();

  private:
    // A state, and where the match began that led there.
    struct Thread {
        uint32_t step;
        size_t begin;
    };

    void add(uint32_t step, size_t begin, size_t at);
    void take_byte(size_t at);
    void note_match(size_t begin, size_t end);

    const Expression& expression_;
    std::string_view text_;
    // In order of `begin`: so whoever comes first to a state has begun leftmost, and others that
    // come to it at the same place need not be followed.
    std::vector<Thread> threads_, next_;
    std::vector<size_t> seen_;  // by state: the place where it was added last, plus 1
    std::vector<uint32_t> pending_;
    std::optional<Match> best_;
};

// Adds the state and all that it leads to without a byte.
void Expression::Search::add(uint32_t first_step, size_t begin, size_t at) {
    pending_.push_back(first_step);
    while (!pending_.empty()) {
        const uint32_t index = pending_.back();
        pending_.pop_back();
        if (seen_[index] == at + 1)
            continue;
        seen_[index] = at + 1;
        const Step& step = expression_.steps_[index];
        switch (step.kind) {
            case Step::Kind::byte_set:
                next_.push_back({index, begin});
                break;
            case Step::Kind::split:
                pending_.push_back(step.second);
                pending_.push_back(step.first);
                break;
            case Step::Kind::line_begin:
                if (at == 0)
                    pending_.push_back(step.first);
                break;
            case Step::Kind::line_end:
                if (at == text_.size())
                    pending_.push_back(step.first);
                break;
            case Step::Kind::match:
                note_match(begin, at);
                break;
        }
    }
}

void Expression::Search::note_match(size_t begin, size_t end) {
    if (!best_ || begin <= best_->begin)
        best_ = Match{begin, end - begin};
}

void Expression::Search::take_byte(size_t at) {
    const auto byte = static_cast<unsigned char>(text_[at]);
    for (const Thread& thread : threads_) {
        if (best_ && thread.begin > best_->begin)
            break;  // and so have all behind it
        const Step& step = expression_.steps_[thread.step];
        if (expression_.sets_[step.first].test(byte))
            add(thread.step + 1, thread.begin, at + 1);
    }
}

std::optional<Expression::Match> Expression::Search::run() {
    add(0, 0, 0);
    for (size_t at = 0; at < text_.size(); ++at) {
        threads_.swap(next_);
        next_.clear();
        if (threads_.empty() && best_)
            break;
        take_byte(at);
        if (!best_)
            add(0, at + 1, at + 1);
    }
    return best_;
}

std::optional<Expression::Match> Expression::find(std::string_view text) const {
    return Search(*this, text).run();
}

}  // namespace spore
