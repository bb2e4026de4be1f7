#include "hypervisor/sandbox/end_on_stop.h"

#include <csignal>

namespace spore {

void EndOnStop::watch(const ProcessIdentity& process) {
    const std::unique_lock lock(mutex_);
    process_ = process;
    if (stop_.stop_requested())
        (void)signal_process(process_, SIGKILL);
}

Status EndOnStop::release() {
    const std::unique_lock lock(mutex_);
    process_ = {};
    return check();
}

Status EndOnStop::check() const {
    if (stop_.stop_requested())
        return fail(Code::unavailable, "the call was cancelled");
    return {};
}

void EndOnStop::on_stop() {
    const std::unique_lock lock(mutex_);
    (void)signal_process(process_, SIGKILL);
}

}  // namespace spore
