#pragma once

#include <deque>

#include "agent/directory_stack.h"
#include "agent/files.h"
#include "agent/poller.h"
#include "agent/server.h"
#include "agent/timer.h"
#include "agent/watch_tree.h"

namespace spore {

// Serves wire::Watch by inotify. Events wait in the kernel, whose queue is bounded, until the
// client takes them: nothing is kept here but which watch is of which directory.
class FileWatch : public GrantedStream {
  public:
    using GrantedStream::GrantedStream;

    Status start(const wire::Watch& request);
    Status take(const wire::Frame& frame) override;
    void cancel() override;
    void update() override;

  protected:
    bool turn() override;

  private:
    struct Event {
        wire::WatchKind kind;
        std::string path, to;
        bool directory;
    };
    // A directory to be watched, and looked through for others.
    struct Found {
        int parent;
        std::string name;
        bool told;  // what is in it is news
    };
    // One that has left its place, until it is known whether it has come to another.
    struct Leaving {
        int watch;
        uint32_t cookie;
        std::string name;
        bool directory;
    };

    bool may_send() { return credit_.left() > 0 && !connection_.congested(); }
    bool scanning() const { return scanned_ || !found_.empty(); }
    std::string full_path(std::string_view relative) const;
    bool root_is_there() const;

    // ---- Finding directories, in turns (file_watch_scan.cc)

    // Watches the root, and what is below it soon. Errors: those of the request.
    Status begin();
    Status scan();
    Status scan_next();
    void scan_batch();
    // Every directory that was there is watched.
    void scanned();
    // -1: it is not there (any more). Errors: resource_exhausted.
    Result<int> add_watch(const std::string& path, uint32_t flags);
    // Some of those that nobody wants any more, in a turn.
    void remove_some();

    // ---- Events (file_watch_events.cc)

    Status read_events();
    void wait_for_other_half(const Leaving& from);
    void on_other_half_late();
    void take_events(std::span<const char> bytes);
    void take_event(const inotify_event& event, std::span<const char> later);
    void take_root_event(const inotify_event& event);
    void arrived(const inotify_event& event, std::string_view name);
    void moved(const Leaving& from, const inotify_event& to);
    void left(const Leaving& from);
    void add(wire::WatchKind kind, int watch, std::string_view name, bool directory);
    void add(Event event);
    // Sends what has been added, and ends if the root is gone.
    void flush();

    std::string root_;  // without a symbolic link in it
    dev_t device_ = 0;
    ino_t inode_ = 0;
    bool recursive_ = false;
    bool directory_ = false;
    Watch queue_;  // the inotify descriptor
    WatchTree tree_;
    int root_watch_ = -1;

    std::deque<Found> found_;
    UniqueFd scanned_;  // being looked through
    int scanned_watch_ = -1;
    bool scanned_told_ = false;
    std::vector<int> unwanted_;

    bool watching_ = false;  // Watching has been sent
    bool lost_ = false;      // events: all is begun anew before the client is told to look again
    bool gone_ = false;
    std::optional<Leaving> leaving_;
    Timer other_half_{server_.timers(), [this] { on_other_half_late(); }};  // of leaving_'s move
    bool left_ = false;             // it is late: leaving_ has come to no other place
    std::vector<uint32_t> joined_;  // cookies of arrivals that have been told already
    std::vector<Event> events_;     // for the next frame
};

}  // namespace spore
