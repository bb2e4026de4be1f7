#pragma once

#include <functional>
#include <mutex>
#include <stop_token>

#include "hypervisor/sandbox/vmm_process.h"

namespace spore {

// Ends a VM that is waited for as soon as a stop is requested, from any thread: then every wait for
// it, for its ready pipe, its control socket or its agent, fails by itself.
class EndOnStop {
  public:
    explicit EndOnStop(std::stop_token stop) : stop_(std::move(stop)) {}
    EndOnStop(const EndOnStop&) = delete;
    EndOnStop& operator=(const EndOnStop&) = delete;

    // This one, and no other any more, from now on.
    void watch(const ProcessIdentity& process);
    // None any more. Errors: unavailable (a stop was requested, so it has been ended).
    Status release();
    // Errors: unavailable.
    Status check() const;

  private:
    void on_stop();

    std::stop_token stop_;
    std::mutex mutex_;
    ProcessIdentity process_;
    std::stop_callback<std::function<void()>> callback_{stop_, [this] { on_stop(); }};
};

}  // namespace spore
