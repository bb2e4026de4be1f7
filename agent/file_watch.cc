#include "agent/file_watch.h"

#include <sys/stat.h>

#include <cstdlib>

#include "agent/file_entry.h"
#include "agent/file_path.h"
#include "agent/files.h"
#include "agent/server.h"

namespace spore {

Status FileWatch::start(const wire::Watch& request) {
    const std::string path = TRY(path_of(request.path()));
    // What happens to links on the way later leads the watch nowhere else.
    char* const real = ::realpath(path.c_str(), nullptr);
    if (real == nullptr)
        return fail_file("watch", path);
    root_ = real;
    std::free(real);
    struct stat about = {};
    if (::lstat(root_.c_str(), &about) != 0)
        return fail_file("watch", path);
    device_ = about.st_dev;
    inode_ = about.st_ino;
    directory_ = S_ISDIR(about.st_mode);
    recursive_ = directory_ && request.recursive();
    credit_ = SendCredit(request.credit());
    return begin();
}

std::string FileWatch::full_path(std::string_view relative) const {
    if (relative.empty())
        return root_;
    return root_ + (root_.back() == '/' ? "" : "/") + std::string(relative);
}

bool FileWatch::root_is_there() const {
    struct stat about = {};
    return ::lstat(root_.c_str(), &about) == 0 && about.st_dev == device_ && about.st_ino == inode_;
}

Status FileWatch::take(const wire::Frame& frame) {
    TRY(GrantedStream::take(frame));
    update();
    return {};
}

void FileWatch::cancel() {
    finish(wire::CreateDone(connection_.buffer()));
}

void FileWatch::update() {
    const bool read = watching_ && !scanning() && !lost_ && !done() && may_send();
    if (!queue_.want(read ? kReadable : 0))
        queue_.close();
}

// In this order: a watch that is unwanted may be that of a directory which is found again.
bool FileWatch::turn() {
    Status went;
    if (!unwanted_.empty())
        remove_some();
    else if (lost_ && !scanning())
        went = begin();
    else if (watching_ && !may_send())
        return false;  // the client's grant is the next occasion
    else if (scanning())
        went = scan();
    else if (leaving_ && left_)
        went = read_events();
    if (!went && !done())
        finish(went.error());
    if (done())
        return false;
    flush();
    update();
    return !done() && (!unwanted_.empty() || lost_ || scanning() || (leaving_ && left_));
}

Result<std::unique_ptr<Stream>> serve_watch(const Request& request) {
    auto watch = std::make_unique<FileWatch>(request.connection, request.server, request.stream);
    TRY(watch->start(request.body<wire::Watch>()));
    return watch;
}

}  // namespace spore
