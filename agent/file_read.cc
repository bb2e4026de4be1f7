// Reading a file: its entry, its bytes, Done.

#include <fcntl.h>
#include <unistd.h>

#include <climits>

#include "agent/file_entry.h"
#include "agent/file_path.h"
#include "agent/files.h"
#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

class FileReader : public GrantedStream {
  public:
    using GrantedStream::GrantedStream;

    Status start(const wire::FileRead& request) {
        path_ = TRY(path_of(request.path()));
        if (request.offset() > INT64_MAX || request.length() > INT64_MAX - request.offset())
            return fail(Code::invalid_argument, "offset and length: end above 2^63 - 1");
        struct stat about = {};
        // Opening a device may set something off.
        if (::stat(path_.c_str(), &about) != 0)
            return fail_file("read", path_);
        TRY(check(about));
        // Without waiting, if it is a FIFO by now, or a file of /proc that waits.
        file_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
        if (!file_ || ::fstat(file_.get(), &about) != 0)
            return fail_file("read", path_);
        TRY(check(about));
        if (request.offset() != 0 &&
            ::lseek(file_.get(), static_cast<off_t>(request.offset()), SEEK_SET) < 0)
            return fail_file("read", path_);
        if (request.length() != 0)
            left_ = request.length();
        credit_ = SendCredit(request.credit());
        const auto asked = view(request.path());
        send(create_entry(connection_.buffer(),
                          {reinterpret_cast<const char*>(asked.data()), asked.size()}, about, {}));
        want_turn();
        return {};
    }

  protected:
    bool turn() override {
        const auto room = static_cast<size_t>(
            std::min<uint64_t>({limits::kFileChunkBytes, credit_.left(), left_}));
        if (room == 0 && left_ != 0)
            return false;
        const ssize_t count = room == 0 ? 0 : send_bytes(room);
        if (count < 0 && errno == EINTR)
            return true;
        if (count < 0)
            finish(fail_file("read", path_).error());
        else if (count == 0)
            finish(wire::CreateDone(connection_.buffer()));
        return count > 0;
    }

  private:
    Status check(const struct stat& about) const {
        if (S_ISREG(about.st_mode))
            return {};
        return fail(Code::invalid_argument,
                    quoted(path_) +
                        (S_ISDIR(about.st_mode) ? ": is a directory" : ": is not a plain file"));
    }

    // Reads straight into the frame, as most often there is as much as there is room for.
    ssize_t send_bytes(size_t room) {
        auto& buffer = connection_.buffer();
        // A frame whose length is a multiple of 8 leaves the next one aligned (FrameReader).
        buffer.ForceVectorAlignment(room, 1, sizeof(uint64_t));
        uint8_t* bytes = nullptr;
        auto vector = buffer.CreateUninitializedVector(room, &bytes);
        const ssize_t count = ::read(file_.get(), bytes, room);
        const int error = errno;
        if (count < static_cast<ssize_t>(room)) {
            const std::vector<uint8_t> few(bytes, bytes + std::max<ssize_t>(count, 0));
            buffer.Clear();
            if (count <= 0) {
                errno = error;
                return count;
            }
            vector = buffer.CreateVector(few);
        }
        send(wire::CreateFileData(buffer, vector));
        credit_.spend(static_cast<size_t>(count));
        left_ -= static_cast<uint64_t>(count);
        return count;
    }

    std::string path_;
    UniqueFd file_;
    uint64_t left_ = INT64_MAX;  // wanted
};

}  // namespace

Result<std::unique_ptr<Stream>> serve_file_read(const Request& request) {
    auto reader = std::make_unique<FileReader>(request.connection, request.server, request.stream);
    TRY(reader->start(request.body<wire::FileRead>()));
    return reader;
}

}  // namespace spore
