#include "agent/session_line.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "agent/connection.h"
#include "agent/session.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// For a shell: between quotes nothing means anything but the quote.
std::string shell_quoted(std::string_view text) {
    std::string result = "'";
    for (const char c : text) {
        if (c == '\'')
            result += "'\\''";
        else
            result += c;
    }
    return result + "'";
}

bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// What a shell takes for a variable's name (POSIX, 3.231).
bool is_name(std::string_view text) {
    return !text.empty() && is_letter(text[0]) &&
           std::ranges::all_of(text, [](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

Result<UniqueFd> make_fifo(const std::string& path, const std::optional<User>& user) {
    if (::mkfifo(path.c_str(), 0600) != 0)
        return fail_errno("mkfifo " + path);
    UniqueFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    if (!reader || (user && ::fchown(reader.get(), user->uid, static_cast<gid_t>(-1)) != 0)) {
        const int error = errno;
        ::unlink(path.c_str());
        return fail_errno(path, error);
    }
    return reader;
}

}  // namespace

LineFiles& LineFiles::operator=(LineFiles&& other) noexcept {
    std::swap(in, other.in);
    std::swap(out, other.out);
    std::swap(err, other.err);
    std::swap(streams, other.streams);
    return *this;
}

Result<LineFiles> LineFiles::make(const std::string& directory, const std::string& name,
                                  bool with_stdin, const std::optional<User>& user) {
    LineFiles files;
    const std::string path = directory + "/" + name;
    files.streams.out = TRY(make_fifo(path + "-out", user));
    files.out = path + "-out";
    files.streams.err = TRY(make_fifo(path + "-err", user));
    files.err = path + "-err";
    if (!with_stdin)
        return files;
    // Kept until the shell has it: without a reader there could be no writer.
    files.streams.child_in = TRY(make_fifo(path + "-in", user));
    files.in = path + "-in";
    files.streams.in =
        UniqueFd(::open(files.in.c_str(), O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    if (!files.streams.in)
        return fail_errno("open " + files.in);
    return files;
}

void LineFiles::remove() {
    for (std::string* path : {&in, &out, &err}) {
        if (!path->empty())
            ::unlink(path->c_str());
        path->clear();
    }
    streams.child_in.reset();
}

SessionLine::SessionLine(const Request& request, Session& session)
    : ProgramStream(request.connection, request.server, request.stream), session_(&session) {}

SessionLine::~SessionLine() {
    if (session_ == nullptr)
        return;
    kill(SIGKILL);
    leave_session();
}

Status SessionLine::read(const wire::Exec& request) {
    std::vector<std::string> argv = TRY(copy_strings(request.argv(), "argv"));
    if (argv.size() != 1)
        return fail(Code::invalid_argument, "argv of a session's line: must be that line alone");
    if (request.pty() != nullptr || !view(request.user()).empty() || request.env_clear() ||
        (request.env_unset() != nullptr && request.env_unset()->size() > 0)) {
        return fail(Code::invalid_argument,
                    "a session's line: takes no terminal, no other user, and unsets no variable");
    }
    line_ = std::move(argv[0]);
    environment_ = TRY(copy_strings(request.env(), "env"));
    bytes_ = line_.size();
    for (const std::string& assignment : environment_) {
        bytes_ += assignment.size();
        if (const std::string name = assignment.substr(0, assignment.find('='));
            !is_name(name) || name.size() == assignment.size()) {
            return fail(Code::invalid_argument, "environment variable '" + name.substr(0, 64) +
                                                    "': is not one that a shell could set");
        }
    }
    if (bytes_ > limits::kSessionLineBytesMax) {
        return fail(Code::invalid_argument, "a session's line of " + std::to_string(bytes_) +
                                                " bytes: must be at most " +
                                                std::to_string(limits::kSessionLineBytesMax));
    }
    cwd_ = view(request.cwd());
    struct stat about = {};
    if (cwd_.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, "cwd: must have no NUL in it");
    if (!cwd_.empty() && ::stat(cwd_.c_str(), &about) != 0)
        return fail_errno("cwd '" + cwd_ + "'");
    with_stdin_ = request.with_stdin();
    stdout_credit_ = request.stdout_credit();
    stderr_credit_ = request.stderr_credit();
    start_timeout(request.timeout_ms());
    return {};
}

// The shell tells through kControlFd that it has opened the streams, and, when the line is through,
// its status. Within the line that descriptor is closed, and the copy that the shell keeps
// meanwhile is one that programs do not inherit: nothing that the line writes is taken for its end.
// A function called `command` would stand before the builtin, so none stays.
std::string SessionLine::script(const std::string& back) const {
    std::string text = "unset -f command\n{ \\command printf 's\\n' >&7; { ";
    if (has_own_cwd())
        text += "\\command cd -- " + shell_quoted(cwd_) + " && ";
    for (const std::string& assignment : environment_) {
        const size_t equals = assignment.find('=');
        text +=
            assignment.substr(0, equals + 1) + shell_quoted(assignment.substr(equals + 1)) + " ";
    }
    text += "\\command eval " + shell_quoted(line_) + "\n} 7>&-; } <";
    text += with_stdin_ ? shell_quoted(files_.in) : "/dev/null";
    text += " >" + shell_quoted(files_.out) + " 2>" + shell_quoted(files_.err) + "\n_spore_end $?";
    if (has_own_cwd())
        text += " " + shell_quoted(back);
    return text + "\n";
}

Status SessionLine::open_files(const std::string& directory, const std::string& name,
                               const std::optional<User>& user) {
    files_ = TRY(LineFiles::make(directory, name, with_stdin_, user));
    watch(files_.streams);
    return {};
}

void SessionLine::begun(pid_t shell) {
    files_.remove();
    started(shell, stdout_credit_, stderr_credit_);
}

void SessionLine::end_with(const ChildEnd& end) {
    session_ = nullptr;
    files_.remove();
    ended(end);
}

void SessionLine::fail_with(const Error& error) {
    session_ = nullptr;
    files_.remove();
    finish(error);
}

void SessionLine::cancel() {
    if (session_ == nullptr || session_->runs(*this))
        return ProgramStream::cancel();
    leave_session();
    // It waits for its turn: there is no program to kill, as ProgramStream's does.
    Stream::cancel();  // NOLINT(bugprone-parent-virtual-call)
}

void SessionLine::on_timeout() {
    ProgramStream::on_timeout();
    if (session_ == nullptr || session_->runs(*this))
        return;
    leave_session();
    end_with({});
}

void SessionLine::kill(int signal) {
    if (session_ != nullptr)
        session_->signal_line(*this, signal);
}

void SessionLine::leave_session() {
    session_->leave(*this);
    session_ = nullptr;
}

}  // namespace spore
