#pragma once

#include <list>
#include <memory>
#include <string_view>

#include "agent/request.h"
#include "agent/session.h"

namespace spore {

// All sessions. Their number, and the lines that wait in them, are bounded.
class Sessions {
  public:
    explicit Sessions(Server& server) : server_(server) {}
    ~Sessions();

    // Errors: already_exists, resource_exhausted, invalid_argument, and those of the shell's start.
    Status create(const wire::SessionCreate& request);
    // Errors: not_found.
    Status remove(std::string_view name);
    Result<Session*> find(std::string_view name);
    const std::list<std::unique_ptr<Session>>& all() const { return sessions_; }
    // Errors: resource_exhausted.
    Status may_wait(size_t bytes) const;

    // Some child has ended: control groups that were still in use may be empty now.
    void sweep_groups();

  private:
    Status make_directory();
    void leave_group(Session& session);

    Server& server_;
    uint64_t last_serial_ = 0;
    std::string directory_;  // of the lines' files; empty until there is a session
    std::list<std::unique_ptr<Session>> sessions_;
    std::list<ControlGroup> left_groups_;  // of deleted ones, whose processes are not gone yet
};

// Serve wire::SessionCreate, SessionList and SessionDelete, and Exec with a session.
Result<std::unique_ptr<Stream>> serve_session_create(const Request& request);
Result<std::unique_ptr<Stream>> serve_session_list(const Request& request);
Result<std::unique_ptr<Stream>> serve_session_delete(const Request& request);
Result<std::unique_ptr<Stream>> serve_session_line(const Request& request);

}  // namespace spore
