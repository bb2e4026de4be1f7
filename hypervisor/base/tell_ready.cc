#include "hypervisor/base/tell_ready.h"

#include <unistd.h>

#include "hypervisor/base/one_line.h"

namespace spore {

bool tell_ready(UniqueFd fd, const Status& status) {
    if (!fd)
        return true;
    std::string line = "ready\n";
    if (!status)
        line = "error " + std::string(code_name(status.error().code)) + " " +
               one_line(status.error().message) + "\n";
    return ::write(fd.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size());
}

}  // namespace spore
