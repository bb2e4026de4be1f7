#pragma once

#include "agent/program_stream.h"

namespace spore {

// One program that a client has started on one stream. It runs in a session and process group of
// its own; the group, and with a terminal the whole session, is killed with the client.
class Command : public ProgramStream, public Child {
  public:
    using ProgramStream::ProgramStream;
    ~Command() override;

    // Starts it and answers with Started or StartFailed. Errors: the request cannot be served.
    Status start(const wire::Exec& request);

    void on_exit(int wait_status, const rusage& usage) override;

  private:
    void kill(int signal) override;

    pid_t pid_ = -1;  // -1 once it has been reaped
    bool has_terminal_ = false;
};

// Serves wire::Exec.
Result<std::unique_ptr<Stream>> serve_exec(const Request& request);

}  // namespace spore
