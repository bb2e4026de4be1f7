#pragma once

#include <algorithm>
#include <cstdint>

#include "agent/connection.h"
#include "schema/frame.h"

namespace spore {

class Server;

// What the client has granted of one flow of a stream and the agent not sent yet.
class SendCredit {
  public:
    explicit SendCredit(uint32_t bytes = 0) : left_(bytes) {}
    void add(uint32_t bytes) { left_ = std::min<int64_t>(left_ + bytes, UINT32_MAX); }
    // A frame of items may be sent while anything is left, and overdraw it (schema/agent.fbs).
    void spend(size_t bytes) { left_ -= static_cast<int64_t>(bytes); }
    size_t left() const { return static_cast<size_t>(std::max<int64_t>(left_, 0)); }

  private:
    int64_t left_;
};

// One request that takes more than one answer, from its first frame to its last: a command, a file
// on its way. It belongs to its connection and ends with it, at any time.
class Stream {
  public:
    Stream(Connection& connection, Server& server, uint32_t id)
        : connection_(connection), server_(server), id_(id) {}
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    virtual ~Stream();

    // A later frame of it: StdinData, FileData, Credit, Signal or WindowSize. An error means that
    // the client broke the protocol, and ends the connection; what only fails this stream is given
    // to `finish`.
    virtual Status take(const wire::Frame& frame);
    // The client wants nothing more of it: come to the last frame soon.
    virtual void cancel();
    // The connection has become free or congested: what waits for a descriptor starts or stops to.
    virtual void update() {}

    uint32_t id() const { return id_; }
    // The last frame has been sent, and nothing more will come of it.
    bool done() const { return done_; }
    Connection& connection() { return connection_; }

  protected:
    // Parts of a frame are made in connection().buffer() first. Returns the frame's length field.
    template <typename Body>
    size_t send(flatbuffers::Offset<Body> body) {
        return connection_.send(id_, body);
    }
    // Sends the last frame.
    template <typename Body>
    void finish(flatbuffers::Offset<Body> body) {
        connection_.send(id_, body);
        done_ = true;
    }
    void finish(const Error& error) {
        connection_.send_error(id_, error);
        done_ = true;
    }

    // Work that no descriptor announces (plain files, directories) is done in turns, one after
    // another with every other stream's and never on a connection that is full. A turn is short:
    // about kFrameChunkBytes of data or kFrameItemsMax entries. Returns whether it wants another.
    virtual bool turn() { return false; }
    // Asks for a turn. Without effect if one is due already.
    void want_turn();

    Connection& connection_;
    Server& server_;

  private:
    friend class Connection;
    friend class Server;

    // no: none is wanted; due: it stands in the server's queue; held: until the connection is free.
    enum class Turn : uint8_t { no, due, held };

    void take_turn();
    void resume();

    uint32_t id_;
    Turn turn_ = Turn::no;
    bool done_ = false;
};

}  // namespace spore
