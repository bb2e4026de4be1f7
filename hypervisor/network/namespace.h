#pragma once

// Network namespaces: going into one, for a moment, in a thread of its own, so that whoever embeds
// us never finds itself elsewhere.

#include <fcntl.h>
#include <sched.h>

#include <optional>
#include <string>
#include <thread>

#include "hypervisor/base/result.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

// That of the calling thread.
inline Result<UniqueFd> own_namespace() {
    UniqueFd fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!fd)
        return fail_errno("/proc/thread-self/ns/net");
    return fd;
}

// Runs `body`, which returns a Result, in the namespace `fd`, or in a new one for -1, and waits.
template <typename Body>
auto in_namespace(int fd, Body body) -> decltype(body()) {
    std::optional<decltype(body())> result;
    std::thread([&] {
        int entered = fd >= 0 ? ::setns(fd, CLONE_NEWNET) : ::unshare(CLONE_NEWNET);
        if (entered != 0)
            result =
                fail_errno(fd >= 0 ? "entering a network namespace" : "making a network namespace");
        else
            result = body();
    }).join();
    return std::move(*result);
}

// /proc/sys/net/NAME of the calling thread's network namespace. Errors: the host's.
Status set_sysctl(const std::string& name, const char* value);
Result<std::string> sysctl(const std::string& name);

// From here on this process may change the network of its namespace, and nothing else.
Status keep_only_the_network();

}  // namespace spore
