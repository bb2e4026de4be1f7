// PortList: who listens on TCP, by /proc/net, and whose each listener is, by every process's
// descriptors. All of it in turns, as there may be many connections, processes and descriptors.
// UNTRUSTED BYTES: names of processes are the guest's programs'; they are only passed on.

#include "agent/port_list.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <vector>

#include "agent/file.h"
#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

constexpr uint32_t kListenState = 0x0a;  // TCP_LISTEN of the kernel's net/tcp_states.h

struct Listener {
    uint64_t inode = 0;
    uint16_t port = 0;
    std::string address;
    uint32_t uid = 0;
    int pid = 0;
    std::string process;
};

struct CloseDirectory {
    void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

template <typename Number>
bool parse(std::string_view word, Number& number, int base = 10) {
    const char* end = word.data() + word.size();
    const auto [last, error] = std::from_chars(word.data(), end, number, base);
    return error == std::errc() && last == end;
}

// "0100007F:1F90": the address in words of the machine's order, then the port.
bool parse_address(std::string_view text, Listener& listener) {
    const size_t colon = text.find(':');
    if (colon != 8 && colon != 32)
        return false;
    uint32_t words[4] = {};
    for (size_t i = 0; i < colon / 8; ++i) {
        if (!parse(text.substr(i * 8, 8), words[i], 16))
            return false;
    }
    char name[INET6_ADDRSTRLEN] = {};
    if (::inet_ntop(colon == 8 ? AF_INET : AF_INET6, words, name, sizeof(name)) == nullptr)
        return false;
    listener.address = name;
    return parse(text.substr(colon + 1), listener.port, 16);
}

// A line of /proc/net/tcp (proc(5)): nothing if it is no listener's.
std::optional<Listener> parse_line(std::string_view line) {
    constexpr size_t kAddress = 1, kState = 3, kUid = 7, kInode = 9, kWords = 10;
    std::string_view words[kWords];
    size_t count = 0;
    while (count < kWords) {
        line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
        if (line.empty())
            return std::nullopt;
        words[count] = line.substr(0, line.find(' '));
        line.remove_prefix(words[count++].size());
    }
    Listener listener;
    uint32_t state = 0;
    if (!parse(words[kState], state, 16) || state != kListenState ||
        !parse_address(words[kAddress], listener) || !parse(words[kUid], listener.uid) ||
        !parse(words[kInode], listener.inode))
        return std::nullopt;
    return listener;
}

class PortList : public Stream {
  public:
    using Stream::Stream;
    void start() { want_turn(); }

  private:
    enum class Step { tables, processes, answers };

    bool turn() override;
    Status read_table();
    void take_lines();
    void look_for_owners();
    bool next_process();
    void look_at(const char* descriptor);
    void answer();

    Step step_ = Step::tables;
    size_t table_ = 0;
    UniqueFd table_fd_;
    std::string text_;
    std::vector<Listener> listeners_;
    size_t unowned_ = 0;
    Directory processes_, descriptors_;
    int pid_ = 0;
    size_t answered_ = 0;
};

bool PortList::turn() {
    if (step_ == Step::tables) {
        if (const Status read = read_table(); !read) {
            finish(read.error());
            return false;
        }
    } else if (step_ == Step::processes) {
        look_for_owners();
    } else {
        answer();
    }
    return !done();
}

// One read of one table.
Status PortList::read_table() {
    constexpr const char* kTables[] = {"/proc/net/tcp", "/proc/net/tcp6"};
    if (table_ == std::size(kTables)) {
        processes_.reset(::opendir("/proc"));
        unowned_ = listeners_.size();
        step_ = Step::processes;
        return {};
    }
    if (!table_fd_) {
        table_fd_ = UniqueFd(::open(kTables[table_], O_RDONLY | O_CLOEXEC));
        if (!table_fd_ && errno != ENOENT)  // a kernel without IPv6
            return fail_errno(kTables[table_]);
    }
    const auto scratch = server_.scratch();
    const ssize_t count =
        table_fd_ ? ::read(table_fd_.get(), scratch.data(), scratch.size()) : ssize_t{0};
    if (count < 0)
        return fail_errno(kTables[table_]);
    if (count == 0) {
        table_fd_.reset();
        text_.clear();
        ++table_;
        return {};
    }
    text_.append(reinterpret_cast<const char*>(scratch.data()), static_cast<size_t>(count));
    take_lines();
    if (listeners_.size() > limits::kListenersMax)
        return fail(Code::resource_exhausted, "listening ports: more than " +
                                                  std::to_string(limits::kListenersMax) +
                                                  " in this guest");
    return {};
}

void PortList::take_lines() {
    size_t begin = 0;
    for (size_t end = 0; (end = text_.find('\n', begin)) != std::string::npos; begin = end + 1) {
        if (auto listener = parse_line(std::string_view(text_).substr(begin, end - begin)))
            listeners_.push_back(std::move(*listener));
    }
    text_.erase(0, begin);
}

// So many descriptors of processes, each a readlink(2).
void PortList::look_for_owners() {
    for (uint32_t left = limits::kFrameItemsMax; left > 0; --left) {
        if (unowned_ == 0 || !processes_ || (!descriptors_ && !next_process())) {
            processes_.reset();
            descriptors_.reset();
            step_ = Step::answers;
            return;
        }
        if (!descriptors_)
            continue;
        if (const dirent* entry = ::readdir(descriptors_.get()))
            look_at(entry->d_name);
        else
            descriptors_.reset();
    }
}

// False after the last entry of /proc. One that is no process, or is gone, has no descriptors.
bool PortList::next_process() {
    const dirent* entry = ::readdir(processes_.get());
    if (entry == nullptr)
        return false;
    if (parse(std::string_view(entry->d_name), pid_))
        descriptors_.reset(::opendir((std::string("/proc/") + entry->d_name + "/fd").c_str()));
    return true;
}

void PortList::look_at(const char* descriptor) {
    constexpr std::string_view kSocket = "socket:[";
    char target[64];
    const ssize_t size =
        ::readlinkat(::dirfd(descriptors_.get()), descriptor, target, sizeof(target));
    const std::string_view text(target, static_cast<size_t>(std::max<ssize_t>(size, 0)));
    uint64_t inode = 0;
    if (!text.starts_with(kSocket) || !text.ends_with(']') ||
        !parse(text.substr(kSocket.size(), text.size() - kSocket.size() - 1), inode))
        return;
    for (Listener& listener : listeners_) {
        if (listener.inode != inode || listener.pid != 0)
            continue;
        listener.pid = pid_;
        --unowned_;
        auto name = read_file("/proc/" + std::to_string(pid_) + "/comm");
        if (name && name->ends_with('\n'))
            name->pop_back();
        listener.process = name.value_or("");
    }
}

void PortList::answer() {
    auto& buffer = connection_.buffer();
    const size_t end = std::min<size_t>(listeners_.size(), answered_ + limits::kFrameItemsMax);
    for (; answered_ < end; ++answered_) {
        const Listener& each = listeners_[answered_];
        const auto address = buffer.CreateString(each.address);
        const auto process = buffer.CreateString(each.process);
        send(wire::CreatePortInfo(buffer, each.port, address, each.pid, process, each.uid));
    }
    if (answered_ == listeners_.size())
        finish(wire::CreateDone(buffer));
}

}  // namespace

Result<std::unique_ptr<Stream>> serve_port_list(const Request& request) {
    auto list = std::make_unique<PortList>(request.connection, request.server, request.stream);
    list->start();
    return list;
}

}  // namespace spore
