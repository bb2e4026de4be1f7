#pragma once

#include <cstdint>
#include <memory>

#include "agent/stream.h"

namespace spore {

// The first frame of a stream, alive while it is served, and whose it is.
struct Request {
    Server& server;
    Connection& connection;
    uint32_t stream;
    const wire::Frame& frame;

    template <typename Body>
    const Body& body() const {
        return *frame.body_as<Body>();
    }
    // The one answer of a request that has no more: Done, or why not.
    void answer(const Status& status) const;
};

// Serves one request: gives back what goes on with it, or nothing if it has been answered already.
// An error is sent as the answer.
using Serve = Result<std::unique_ptr<Stream>> (*)(const Request&);

// A kind of request that the protocol has.
struct RequestKind {
    wire::Body body;
    Serve serve;               // nullptr: not served by this agent
    bool when_sealed = false;  // else refused until there is an identity
};

// nullptr: no request, or of a version that is not known here.
const RequestKind* find_request(wire::Body body);

}  // namespace spore
