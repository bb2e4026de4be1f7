#include "agent/stream.h"

#include "agent/server.h"

namespace spore {

Stream::~Stream() {
    if (turn_ == Turn::due)
        server_.remove_turn(*this);
}

Status Stream::take(const wire::Frame& frame) {
    return fail(Code::invalid_argument, "stream " + std::to_string(id_) + ": takes no " +
                                            wire::EnumNameBody(frame.body_type()));
}

void Stream::cancel() {
    finish(Error{Code::unavailable, "cancelled by the client"});
}

void Stream::want_turn() {
    if (turn_ != Turn::no || done_)
        return;
    turn_ = Turn::due;
    server_.add_turn(*this);
}

// Called by the server, which has taken it out of its queue.
void Stream::take_turn() {
    turn_ = Turn::no;
    if (done_ || connection_.dead())
        return;
    if (connection_.full())
        turn_ = Turn::held;
    else if (turn())
        want_turn();
}

// The connection is free again.
void Stream::resume() {
    if (turn_ == Turn::held) {
        turn_ = Turn::no;
        want_turn();
    }
    update();
}

}  // namespace spore
