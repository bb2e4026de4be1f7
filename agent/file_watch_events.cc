// What inotify(7) tells, as wire::WatchEvents.

#include <algorithm>

#include "agent/file_entry.h"
#include "agent/file_path.h"
#include "agent/file_watch.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// An event takes 16 bytes or more: no more than one frame's.
constexpr size_t kReadBytes = size_t{limits::kFrameItemsMax} * sizeof(inotify_event);
// The kernel queues the second half of a move right behind the first: it is there unless that CPU
// was taken away in between (inotify(7), "Dealing with rename() events").
constexpr auto kOtherHalfLimit = std::chrono::milliseconds(50);
static_assert(kReadBytes > sizeof(inotify_event) + 256, "one with the longest name");

// Calls `visit` with each and what is behind it, until it returns false.
template <typename Visit>
void for_each_event(std::span<const char> bytes, Visit&& visit) {
    while (bytes.size() >= sizeof(inotify_event)) {
        const auto& event = *reinterpret_cast<const inotify_event*>(bytes.data());
        bytes = bytes.subspan(sizeof(inotify_event) + event.len);
        if (!visit(event, bytes))
            return;
    }
}

std::string_view name_of(const inotify_event& event) {
    return event.len == 0 ? std::string_view() : std::string_view(event.name);
}

const inotify_event* find_arrival(std::span<const char> bytes, uint32_t cookie) {
    const inotify_event* found = nullptr;
    for_each_event(bytes, [&](const inotify_event& event, auto) {
        if ((event.mask & IN_MOVED_TO) != 0 && event.cookie == cookie)
            found = &event;
        return found == nullptr;
    });
    return found;
}

}  // namespace

Status FileWatch::read_events() {
    alignas(inotify_event) std::array<char, kReadBytes> bytes;
    const ssize_t count = ::read(queue_.fd(), bytes.data(), bytes.size());
    if (count < 0 && errno != EAGAIN && errno != EINTR)
        return fail_errno("read inotify events");
    if (count > 0)
        take_events({bytes.data(), static_cast<size_t>(count)});
    else if (leaving_ && left_)
        left(*std::exchange(leaving_, std::nullopt));
    return {};
}

void FileWatch::wait_for_other_half(const Leaving& from) {
    leaving_ = from;
    left_ = false;
    other_half_.set(Timers::Clock::now() + kOtherHalfLimit);
}

void FileWatch::on_other_half_late() {
    if (done() || !leaving_)
        return;
    left_ = true;
    want_turn();
}

void FileWatch::take_events(std::span<const char> bytes) {
    // The kernel puts both halves of a move into the queue one behind the other, but for what
    // another CPU puts between.
    if (const auto from = std::exchange(leaving_, std::nullopt)) {
        if (const auto* to = find_arrival(bytes, from->cookie))
            moved(*from, *to);
        else
            left(*from);
    }
    for_each_event(bytes, [&](const inotify_event& event, std::span<const char> later) {
        take_event(event, later);
        return !lost_ && !gone_;
    });
    joined_.clear();
}

void FileWatch::take_event(const inotify_event& event, std::span<const char> later) {
    const std::string_view name = name_of(event);
    const bool directory = (event.mask & IN_ISDIR) != 0;
    if ((event.mask & IN_Q_OVERFLOW) != 0) {
        lost_ = recursive_;
        if (!recursive_)
            add({wire::WatchKind::overflow, {}, {}, false});
    } else if (event.wd == root_watch_ && name.empty()) {
        take_root_event(event);
    } else if ((event.mask & IN_IGNORED) != 0) {
        tree_.erase(event.wd);
    } else if (name.empty()) {
        return;  // what a directory's own watch tells, that of the one above does too
    } else if ((event.mask & IN_MOVED_FROM) != 0) {
        const Leaving from = {event.wd, event.cookie, std::string(name), directory};
        if (const auto* to = find_arrival(later, event.cookie))
            moved(from, *to);
        else if (later.empty())
            wait_for_other_half(from);
        else
            left(from);
    } else if ((event.mask & (IN_CREATE | IN_MOVED_TO)) != 0) {
        const bool told = (event.mask & IN_MOVED_TO) != 0 &&
                          std::ranges::find(joined_, event.cookie) != joined_.end();
        if (!told)
            arrived(event, name);
    } else if ((event.mask & IN_DELETE) != 0) {
        add(wire::WatchKind::removed, event.wd, name, directory);
    } else if ((event.mask & IN_MODIFY) != 0) {
        add(wire::WatchKind::modified, event.wd, name, directory);
    } else if ((event.mask & IN_ATTRIB) != 0) {
        add(wire::WatchKind::attributes, event.wd, name, directory);
    }
}

void FileWatch::take_root_event(const inotify_event& event) {
    if ((event.mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)) != 0)
        gone_ = true;
    else if ((event.mask & IN_MODIFY) != 0)
        add(wire::WatchKind::modified, event.wd, {}, directory_);
    else if ((event.mask & IN_ATTRIB) != 0 && !directory_ && !root_is_there())
        gone_ = true;  // the file lives on with whoever has it open
    else if ((event.mask & IN_ATTRIB) != 0)
        add(wire::WatchKind::attributes, event.wd, {}, directory_);
}

void FileWatch::arrived(const inotify_event& event, std::string_view name) {
    const bool directory = (event.mask & IN_ISDIR) != 0;
    add(wire::WatchKind::created, event.wd, name, directory);
    if (directory && recursive_)
        found_.push_back({event.wd, std::string(name), true});
}

void FileWatch::moved(const Leaving& from, const inotify_event& to) {
    joined_.push_back(from.cookie);
    auto old_path = tree_.path(from.watch, from.name);
    auto path = tree_.path(to.wd, name_of(to));
    if (old_path && path) {
        add({wire::WatchKind::moved, std::move(*old_path), std::move(*path), from.directory});
    } else {
        add(wire::WatchKind::removed, from.watch, from.name, from.directory);
        add(wire::WatchKind::created, to.wd, name_of(to), from.directory);
    }
    if (!recursive_ || !from.directory)
        return;
    // What it has replaced, an empty directory, leaves the tree by its own event.
    const int watch = tree_.find(from.watch, from.name);
    if (watch >= 0)
        tree_.set(watch, to.wd, std::string(name_of(to)));
    else
        found_.push_back({to.wd, std::string(name_of(to)), true});
}

void FileWatch::left(const Leaving& from) {
    add(wire::WatchKind::removed, from.watch, from.name, from.directory);
    if (!recursive_ || !from.directory)
        return;
    const std::vector<int> taken = tree_.take(from.watch, from.name);
    unwanted_.insert(unwanted_.end(), taken.begin(), taken.end());
}

void FileWatch::add(wire::WatchKind kind, int watch, std::string_view name, bool directory) {
    if (auto path = tree_.path(watch, name))
        add({kind, std::move(*path), {}, directory});
}

void FileWatch::add(Event event) {
    const bool state =
        event.kind == wire::WatchKind::modified || event.kind == wire::WatchKind::attributes;
    if (state && !events_.empty() && events_.back().kind == event.kind &&
        events_.back().path == event.path)
        return;
    events_.push_back(std::move(event));
}

void FileWatch::flush() {
    if (gone_)
        events_.push_back({wire::WatchKind::gone, {}, {}, directory_});
    auto& buffer = connection_.buffer();
    std::span<const Event> left = events_;
    while (!left.empty()) {
        const auto now = left.first(std::min<size_t>(left.size(), limits::kFrameItemsMax));
        left = left.subspan(now.size());
        std::vector<flatbuffers::Offset<wire::WatchEvent>> events;
        for (const Event& event : now) {
            const auto path = create_bytes(buffer, event.path);
            flatbuffers::Offset<flatbuffers::Vector<uint8_t>> to;
            if (event.kind == wire::WatchKind::moved)
                to = create_bytes(buffer, event.to);
            events.push_back(wire::CreateWatchEvent(buffer, event.kind, path, to, event.directory));
        }
        const auto all = buffer.CreateVector(events);
        credit_.spend(send(wire::CreateWatchEvents(buffer, all)));
    }
    events_.clear();
    if (gone_ && !done())
        finish(wire::CreateDone(buffer));
}

}  // namespace spore
