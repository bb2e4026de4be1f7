// Removing a file, or a directory with all that is in it, in turns. Every step is by a name in a
// directory that is open, so that whoever moves things about meanwhile leads it nowhere else.

#include <fcntl.h>

#include "agent/directory_stack.h"
#include "agent/file_path.h"
#include "agent/files.h"
#include "agent/server.h"

namespace spore {

namespace {

// How often a directory is read again that was empty, and was not when it was to be removed.
constexpr int kPassesMax = 100;

enum class Removed : uint8_t { yes, not_empty, failed };  // failed: errno says why

// A file, a symbolic link or an empty directory.
Removed remove_one(int directory, const char* name, bool may_be_gone) {
    if (::unlinkat(directory, name, 0) == 0 || (may_be_gone && errno == ENOENT))
        return Removed::yes;
    if (errno != EISDIR)
        return Removed::failed;
    if (::unlinkat(directory, name, AT_REMOVEDIR) == 0 || (may_be_gone && errno == ENOENT))
        return Removed::yes;
    return errno == ENOTEMPTY || errno == EEXIST ? Removed::not_empty : Removed::failed;
}

class Remover : public Stream {
  public:
    using Stream::Stream;

    Status start(Place place) {
        place_ = std::move(place);
        TRY(levels_.enter(place_.directory.get(), place_.name.c_str()));
        want_turn();
        return {};
    }

  protected:
    bool turn() override {
        DirectoryBatch batch;
        Status went;
        if (!batch.fill(levels_.fd()))
            went = fail_file("read directory", levels_.name());
        else
            went = batch.ended() ? leave() : remove(batch);
        if (!went)
            finish(went.error());
        else if (levels_.empty())
            finish(wire::CreateDone(connection_.buffer()));
        return !done();
    }

  private:
    Status remove(DirectoryBatch& batch) {
        while (const auto* entry = batch.next()) {
            switch (remove_one(levels_.fd(), entry->name, true)) {
                case Removed::yes:
                    break;
                case Removed::not_empty:
                    return levels_.descend(entry->name, entry->position);
                case Removed::failed:
                    return fail_file("remove", entry->name);
            }
        }
        return {};
    }

    // The lowest one has been read to its end: it is removed from the one above.
    Status leave() {
        const std::string name = levels_.name();
        if (levels_.depth() == 1) {
            const Removed removed = remove_one(place_.directory.get(), place_.name.c_str(), true);
            if (removed == Removed::not_empty)
                return again();
            if (removed == Removed::failed)
                return fail_file("remove", name);
            return levels_.ascend();
        }
        TRY(levels_.ascend());
        switch (remove_one(levels_.fd(), name.c_str(), true)) {
            case Removed::yes:
                return {};
            case Removed::failed:
                return fail_file("remove", name);
            case Removed::not_empty:
                break;
        }
        const auto position = ::lseek(levels_.fd(), 0, SEEK_CUR);
        TRY(levels_.descend(name.c_str(), position));
        return again();
    }

    // Somebody has put something into it, or the file system passed over some.
    Status again() {
        if (++passes_ > kPassesMax) {
            return fail(Code::unavailable,
                        "directory " + quoted(levels_.name()) + ": is filled while it is removed");
        }
        if (::lseek(levels_.fd(), 0, SEEK_SET) < 0)
            return fail_file("read directory", levels_.name());
        return {};
    }

    Place place_;
    DirectoryStack levels_;
    int passes_ = 0;
};

}  // namespace

Result<std::unique_ptr<Stream>> serve_remove(const Request& request) {
    const auto& remove = request.body<wire::Remove>();
    const std::string path = TRY(path_of(remove.path()));
    Place place = TRY(find_place(path, false));
    const Removed removed = remove_one(place.directory.get(), place.name.c_str(), false);
    if (removed == Removed::failed)
        return fail_file("remove", path);
    if (removed == Removed::not_empty && !remove.recursive())
        return fail_file("remove", path, ENOTEMPTY);
    if (removed == Removed::yes) {
        request.answer({});
        return nullptr;
    }
    auto remover = std::make_unique<Remover>(request.connection, request.server, request.stream);
    TRY(remover->start(std::move(place)));
    return remover;
}

}  // namespace spore
