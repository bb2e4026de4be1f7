// Which directories there are to be watched: those at the start, and those made later.

#include <fcntl.h>
#include <sys/stat.h>

#include "agent/file_path.h"
#include "agent/file_watch.h"
#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

constexpr uint32_t kEvents =
    IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_EXCL_UNLINK;
constexpr size_t kRemovedATurn = limits::kFrameItemsMax;

}  // namespace

// Also in the midst, when events were lost: of what it was before nothing stays.
Status FileWatch::begin() {
    queue_.close();
    tree_.clear();
    unwanted_.clear();
    leaving_.reset();
    UniqueFd queue(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!queue && errno == EMFILE) {
        return fail(Code::resource_exhausted,
                    "watches: no more at once in this guest (fs.inotify.max_user_instances, or "
                    "descriptors)");
    }
    if (!queue)
        return fail_errno("inotify");
    queue_.open(server_.poller(), std::move(queue), [this](uint32_t) {
        if (scanning() || lost_ || !may_send())
            return update();
        if (const Status read = read_events(); !read)
            return finish(read.error());
        flush();
        update();
        want_turn();  // for what they have led to
    });
    root_watch_ =
        TRY(add_watch(root_, IN_DELETE_SELF | IN_MOVE_SELF | (directory_ ? IN_ONLYDIR : 0)));
    if (root_watch_ < 0 || !root_is_there()) {
        if (!watching_)
            return fail(Code::not_found, "watch " + quoted(root_) + ": is not there any more");
        gone_ = true;
        return {};
    }
    tree_.set_root(root_watch_);
    if (recursive_) {
        scanned_ = UniqueFd(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!scanned_)
            return fail_file("watch", root_);
        scanned_watch_ = root_watch_;
        scanned_told_ = false;
        want_turn();
    } else {
        scanned();
    }
    return {};
}

Result<int> FileWatch::add_watch(const std::string& path, uint32_t flags) {
    const int watch =
        ::inotify_add_watch(queue_.fd(), path.c_str(), kEvents | IN_DONT_FOLLOW | flags);
    if (watch < 0 && errno == ENOSPC) {
        return fail(Code::resource_exhausted, "watch " + quoted(path) +
                                                  ": no more directories can be watched in this "
                                                  "guest (fs.inotify.max_user_watches)");
    }
    if (watch < 0 && errno == ENOMEM)
        return fail_file("watch", path);
    return watch;
}

Status FileWatch::scan() {
    if (scanned_)
        scan_batch();
    else
        TRY(scan_next());
    if (!scanning())
        scanned();
    return {};
}

// Watches it first: what is made in it afterwards is told by inotify, perhaps a second time.
Status FileWatch::scan_next() {
    const Found found = std::move(found_.front());
    found_.pop_front();
    const auto relative = tree_.path(found.parent, found.name);
    if (!relative)
        return {};
    const std::string path = full_path(*relative);
    const int watch = TRY(add_watch(path, IN_ONLYDIR));
    if (watch < 0) {
        gone_ = gone_ || !root_is_there();  // it has gone, or all of it
        return {};
    }
    if (tree_.has(watch))  // found twice
        return {};
    tree_.set(watch, found.parent, found.name);
    scanned_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    scanned_watch_ = watch;
    scanned_told_ = found.told;
    return {};
}

void FileWatch::scan_batch() {
    DirectoryBatch batch;
    if (!batch.fill(scanned_.get()) || batch.ended()) {
        scanned_.reset();
        return;
    }
    while (const auto* entry = batch.next()) {
        bool directory = entry->type == DT_DIR;
        struct stat about = {};
        if (entry->type == DT_UNKNOWN &&
            ::fstatat(scanned_.get(), entry->name, &about, AT_SYMLINK_NOFOLLOW) == 0)
            directory = S_ISDIR(about.st_mode);
        if (scanned_told_)
            add(wire::WatchKind::created, scanned_watch_, entry->name, directory);
        if (directory)
            found_.push_back({scanned_watch_, entry->name, scanned_told_});
    }
}

void FileWatch::scanned() {
    if (!watching_)
        send(wire::CreateWatching(connection_.buffer()));
    else if (lost_)
        add({wire::WatchKind::overflow, {}, {}, false});
    watching_ = true;
    lost_ = false;
    update();
}

void FileWatch::remove_some() {
    for (size_t left = kRemovedATurn; left > 0 && !unwanted_.empty(); --left) {
        // One that the kernel has removed already is none any more.
        ::inotify_rm_watch(queue_.fd(), unwanted_.back());
        unwanted_.pop_back();
    }
}

}  // namespace spore
