#pragma once

// Clones that wait for their request, as a pool's keeper makes them: workers of a template's
// zygote, ready (process, jail and devices; the VM is made when it is asked for) or parked (the VM
// too).

#include <filesystem>
#include <optional>

#include "bench/clone.h"
#include "hypervisor/sandbox/zygote.h"

namespace spore::bench {

class WaitingClones {
  public:
    // Starts a zygote for the snapshot in `source` whose disk's lowest layer is `base`.
    static Result<WaitingClones> create(const std::filesystem::path& source,
                                        const std::filesystem::path& base,
                                        std::filesystem::path directory);

    // One that waits: off every measured part. Returns its directory.
    // `disk`: where the top of its disk is to be; `network`: the connected other end of its card;
    // `with_stages`: it notes where its time goes.
    Result<std::filesystem::path> make(ZygoteStart start, const std::filesystem::path& directory,
                                       const std::filesystem::path& disk, UniqueFd network,
                                       bool with_stages);

  private:
    WaitingClones(Zygote zygote) : zygote_(std::move(zygote)) {}
    Zygote zygote_;
    UniqueFd lease_read_, lease_write_;
};

// From the request on what create_sandbox() does with a clone of a pool until it runs: the lock,
// the rename, the control socket, the word. Any thread.
Result<Clone> take_waiting(const std::filesystem::path& waiting,
                           const std::filesystem::path& target);

}  // namespace spore::bench
