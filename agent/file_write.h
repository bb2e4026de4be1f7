#pragma once

#include <sys/stat.h>

#include "agent/file_path.h"
#include "agent/file_sync.h"
#include "agent/stream.h"

namespace spore {

// Writing a file: WriteReady, the client's bytes as they come, Done. A whole new file has no name
// before it has its last byte (O_TMPFILE), so that nothing is left of it if that never comes.
class FileWriter : public Stream {
  public:
    using Stream::Stream;
    ~FileWriter() override;

    Status start(const wire::FileWrite& request);
    Status take(const wire::Frame& frame) override;

  private:
    bool fresh() const {
        return mode_ == wire::WriteMode::replace || mode_ == wire::WriteMode::create;
    }
    Status check_place(const wire::FileWrite& request);
    Status open_fresh();
    Status open_present();
    Status write(std::span<const std::byte> bytes);
    void grant(size_t bytes);

    // From the last byte to Done, in this order.
    void end_of_data();
    Status apply_attributes();
    void name_it();
    Status link_fresh();
    void answer();

    std::string path_;  // as it was asked for
    Place place_;
    UniqueFd file_;
    std::string temporary_;  // the name that a fresh file has, on file systems where it needs one
    wire::WriteMode mode_ = wire::WriteMode::replace;
    bool created_ = false;  // nothing was there
    bool sync_ = false;
    bool receiving_ = true;
    uint32_t permissions_ = 0;  // of what is new
    std::optional<Owner> owner_;
    int64_t mtime_ns_ = 0;
    uint64_t offset_ = 0;  // in_place: of the next byte
    uint64_t written_ = 0;
    size_t credit_ = 0;    // what the client may still send
    size_t to_grant_ = 0;  // written and not yet granted again
    FileSync file_sync_, directory_sync_;
};

}  // namespace spore
