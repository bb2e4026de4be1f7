// Listing a directory, or all that is in it, in turns.

#include <fcntl.h>

#include "agent/directory_stack.h"
#include "agent/file_entry.h"
#include "agent/file_path.h"
#include "agent/files.h"
#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

class Lister : public GrantedStream {
  public:
    using GrantedStream::GrantedStream;

    Status start(const wire::List& request) {
        const std::string path = TRY(path_of(request.path()));
        UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC));
        if (!directory) {
            const int error = errno;
            struct stat about = {};
            if (error == ENOTDIR && ::stat(path.c_str(), &about) == 0)
                return fail(Code::invalid_argument, quoted(path) + ": is no directory");
            return fail_file("list", path, error);
        }
        TRY(levels_.enter(std::move(directory)));
        recursive_ = request.recursive();
        hidden_ = request.hidden();
        left_ = request.entries_max() == 0 ? UINT64_MAX : request.entries_max();
        credit_ = SendCredit(request.credit());
        want_turn();
        return {};
    }

  protected:
    // One frame at most, of what a bounded number of steps brings.
    bool turn() override {
        if (credit_.left() == 0)
            return false;
        steps_ = limits::kFrameItemsMax;
        Status went;
        while (went && !levels_.empty() && has_room())
            went = read_some();
        auto& buffer = connection_.buffer();
        if (!entries_.empty()) {
            const auto entries = buffer.CreateVector(entries_);
            credit_.spend(send(wire::CreateFileEntries(buffer, entries)));
            entries_.clear();
        }
        if (!went)
            finish(went.error());
        else if (levels_.empty())
            finish(wire::CreateDone(buffer, 0, truncated_));
        return !done();
    }

  private:
    bool has_room() {
        return steps_ > 0 && entries_.size() < limits::kFrameItemsMax &&
               connection_.buffer().GetSize() < limits::kFrameChunkBytes;
    }

    // One batch of the lowest directory, as far as there is room; what is left is read again.
    Status read_some() {
        DirectoryBatch batch;
        // One that cannot be read on has gone, and what there was of it is told.
        if (!batch.fill(levels_.fd()) || batch.ended())
            return leave();
        int64_t position = -1;
        while (const auto* entry = batch.next()) {
            if (!has_room()) {
                // Never before the first entry of a batch, so `position` is known.
                if (::lseek(levels_.fd(), position, SEEK_SET) < 0)
                    return fail_file("go on reading directory", levels_.name());
                return {};
            }
            position = entry->position;
            --steps_;
            if (entry->name[0] == '.' && !hidden_)
                continue;
            if (left_ == 0) {
                truncated_ = true;
                return end();
            }
            if (add(entry->name) && recursive_)
                return enter(entry->name, position);
        }
        return {};
    }

    // Whether it is a directory.
    bool add(const char* name) {
        const size_t directory = path_.size();
        path_ += name;
        struct stat about = {};
        const bool named = path_.size() <= limits::kPathBytesMax;
        truncated_ |= !named;
        const bool seen = named && look_at(levels_.fd(), name, about, target_);
        if (seen) {
            entries_.push_back(create_entry(connection_.buffer(), path_, about, target_));
            --left_;
        }
        path_.resize(directory);
        return seen && S_ISDIR(about.st_mode);
    }

    Status enter(const char* name, int64_t position) {
        if (const Status entered = levels_.descend(name, position); !entered) {
            if (entered.error().code == Code::resource_exhausted)
                return entered;
            // It went, or is none any more: its siblings are still to be told.
            if (::lseek(levels_.fd(), position, SEEK_SET) < 0)
                return fail_file("go on reading directory", levels_.name());
            return {};
        }
        path_ += name;
        path_ += '/';
        return {};
    }

    Status leave() {
        --steps_;
        if (levels_.depth() > 1)
            path_.resize(path_.size() - levels_.name().size() - 1);
        return levels_.ascend();
    }

    Status end() {
        levels_ = DirectoryStack();
        return {};
    }

    DirectoryStack levels_;
    std::string path_;  // of the lowest, with a slash behind it; empty: the one asked for
    std::string target_;
    std::vector<flatbuffers::Offset<wire::FileEntry>> entries_;  // in the connection's buffer
    uint64_t left_ = 0;                                          // entries that may still be told
    size_t steps_ = 0;                                           // of this turn
    bool recursive_ = false;
    bool hidden_ = false;
    bool truncated_ = false;
};

}  // namespace

Result<std::unique_ptr<Stream>> serve_list(const Request& request) {
    auto lister = std::make_unique<Lister>(request.connection, request.server, request.stream);
    TRY(lister->start(request.body<wire::List>()));
    return lister;
}

}  // namespace spore
