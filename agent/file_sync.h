#pragma once

#include <functional>

#include "agent/poller.h"

namespace spore {

// fsync(2), which takes as long as a disk does: a child of the agent waits for it. Destroyed before
// its end, it says nothing; what it was to write is written all the same.
class FileSync {
  public:
    using Done = std::function<void(const Status&)>;

    // Of a file, or of a directory given by O_PATH. Errors: no child can be had.
    Status start(Poller& poller, int fd, bool directory, Done done);

  private:
    void on_ready();

    Watch pipe_;
    Done done_;
};

}  // namespace spore
