#pragma once

// Requests about files (schema/agent.fbs, Files).

#include "agent/request.h"

namespace spore {

Result<std::unique_ptr<Stream>> serve_stat(const Request& request);
Result<std::unique_ptr<Stream>> serve_file_read(const Request& request);
Result<std::unique_ptr<Stream>> serve_file_write(const Request& request);
Result<std::unique_ptr<Stream>> serve_list(const Request& request);
Result<std::unique_ptr<Stream>> serve_remove(const Request& request);
Result<std::unique_ptr<Stream>> serve_move(const Request& request);
Result<std::unique_ptr<Stream>> serve_make_directory(const Request& request);
Result<std::unique_ptr<Stream>> serve_symlink(const Request& request);
Result<std::unique_ptr<Stream>> serve_hard_link(const Request& request);
Result<std::unique_ptr<Stream>> serve_set_attributes(const Request& request);
Result<std::unique_ptr<Stream>> serve_watch(const Request& request);

// A stream whose bytes or items the client grants on flow 1, sent in turns.
class GrantedStream : public Stream {
  public:
    using Stream::Stream;
    // Credit is a turn's occasion. Errors: of another flow, for which the agent has no use.
    Status take(const wire::Frame& frame) override;

  protected:
    SendCredit credit_;
};

}  // namespace spore
