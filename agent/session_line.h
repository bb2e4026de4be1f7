#pragma once

#include <string>
#include <vector>

#include "agent/program_stream.h"

namespace spore {

class Session;

// The files by which a session's shell finds the streams of one line: FIFOs that are there until it
// has opened them.
struct LineFiles {
    std::string in;  // /dev/null without stdin
    std::string out, err;
    ChildStreams streams;  // the agent's ends; the shell has no other

    LineFiles() = default;
    LineFiles(LineFiles&&) = default;
    LineFiles& operator=(LineFiles&& other) noexcept;
    ~LineFiles() { remove(); }

    // In `directory`, with names that begin with `name`, for the user to open.
    static Result<LineFiles> make(const std::string& directory, const std::string& name,
                                  bool with_stdin, const std::optional<User>& user);
    void remove();
};

// One line for a session's shell, on one stream: it waits for those before it, runs, and ends; or
// it is killed, and with it the shell.
class SessionLine : public ProgramStream {
  public:
    SessionLine(const Request& request, Session& session);
    ~SessionLine() override;

    // Errors: invalid_argument.
    Status read(const wire::Exec& request);

    void cancel() override;

    // ---- For its session

    // The words that the shell evaluates; `back` is the directory where it is now.
    std::string script(const std::string& back) const;
    // What the session keeps of it while it waits.
    size_t bytes() const { return bytes_; }
    bool has_own_cwd() const { return !cwd_.empty(); }
    // Its turn has come.
    Status open_files(const std::string& directory, const std::string& name,
                      const std::optional<User>& user);
    // The shell has opened them.
    void begun(pid_t shell);
    // It is the session's no longer.
    void end_with(const ChildEnd& end);
    void fail_with(const Error& error);

  private:
    void kill(int signal) override;
    void on_timeout() override;
    void leave_session();

    Session* session_;  // until its end
    std::string line_;
    std::vector<std::string> environment_;
    std::string cwd_;
    bool with_stdin_ = false;
    uint32_t stdout_credit_ = 0;
    uint32_t stderr_credit_ = 0;
    size_t bytes_ = 0;
    LineFiles files_;
};

}  // namespace spore
