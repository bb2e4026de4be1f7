#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/file.h"
#include "agent/init.h"
#include "agent/log.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

Status load_module(const std::string& path) {
    UniqueFd module(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!module)
        return fail_errno("module " + path);
    if (::syscall(SYS_finit_module, module.get(), "", 0) != 0 && errno != EEXIST)
        return fail_errno("module " + path);
    return {};
}

}  // namespace

// A kernel can do without any one of them; what then is missing says so itself.
void load_modules() {
    const auto list = read_file("/etc/spore/modules");
    if (!list)
        return;  // all built in
    std::string_view rest = *list;
    while (!rest.empty()) {
        const size_t end = std::min(rest.find('\n'), rest.size());
        const std::string path(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (path.empty())
            continue;
        if (const Status loaded = load_module(path); !loaded)
            log_line(loaded.error().message);
    }
}

}  // namespace spore
