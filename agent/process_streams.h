#pragma once

// Requests about processes that no connection owns (schema/agent.fbs, Processes).

#include "agent/process.h"
#include "agent/request.h"
#include "agent/server.h"
#include "agent/stream.h"

namespace spore {

// One that goes on, and watches a process meanwhile.
class ProcessStream : public Stream, public ProcessObserver {
  public:
    // `process` may be nullptr: then it is about none.
    ProcessStream(const Request& request, Process* process);
    ~ProcessStream() override;

    void on_change() override {}
    void on_forgotten() override;

  protected:
    // Finishes with what became of the process.
    void finish_with_end();

    Process* process_;
};

Result<std::unique_ptr<Stream>> serve_process_start(const Request& request);
Result<std::unique_ptr<Stream>> serve_process_list(const Request& request);
Result<std::unique_ptr<Stream>> serve_process_logs(const Request& request);
Result<std::unique_ptr<Stream>> serve_process_wait(const Request& request);
Result<std::unique_ptr<Stream>> serve_process_signal(const Request& request);
Result<std::unique_ptr<Stream>> serve_process_remove(const Request& request);
Result<std::unique_ptr<Stream>> serve_process_input(const Request& request);
Result<std::unique_ptr<Stream>> serve_wait_port(const Request& request);
Result<std::unique_ptr<Stream>> serve_wait_log(const Request& request);

}  // namespace spore
