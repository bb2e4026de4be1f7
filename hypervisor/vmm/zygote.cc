#include "hypervisor/vmm/zygote.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "hypervisor/base/limits.h"
#include "hypervisor/jail/cgroup_v1.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/jail/namespaces.h"
#include "hypervisor/jail/own_user.h"
#include "schema/zygote.h"

namespace spore {

namespace {

struct Order {
    ZygoteRequest request;
    UniqueFd log, ready, lease, console, control, vsock, go;
    std::vector<UniqueFd> disks;
    std::vector<UniqueFd> networks;
    UniqueFd claim, mapper;  // of its user
    UniqueFd cgroup;
    std::vector<UniqueFd> cgroups_v1;
};

std::vector<UniqueFd> descriptors_of(msghdr& message) {
    std::vector<UniqueFd> descriptors;
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t index = 0; index < count; index++) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + index * sizeof(int), sizeof(int));
            descriptors.emplace_back(fd);
        }
    }
    return descriptors;
}

// The next order; nothing when the keeper has closed its end. Errors: what the keeper would never
// send.
Result<std::optional<Order>> receive_order(int keeper) {
    Order order;
    iovec bytes = {&order.request, sizeof(order.request)};
    alignas(cmsghdr) char control[CMSG_SPACE(ZygoteRequest::kDescriptorsMax * sizeof(int))];
    msghdr message = {};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t got = 0;
    do {
        got = ::recvmsg(keeper, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return fail_errno("zygote: recvmsg");
    if (got == 0)
        return std::optional<Order>();
    auto descriptors = descriptors_of(message);
    if (got != sizeof(order.request) || order.request.magic != ZygoteRequest::kMagic ||
        order.request.disks > ZygoteRequest::kDisksMax ||
        order.request.networks > ZygoteRequest::kNetworksMax || order.request.cgroups > 1 ||
        order.request.cgroups_v1 > ZygoteRequest::kCgroupsV1Max ||
        order.request.cgroup[sizeof(order.request.cgroup) - 1] != '\0' ||
        descriptors.size() != ZygoteRequest::kFixedDescriptors + order.request.disks +
                                  order.request.networks + order.request.cgroups +
                                  order.request.cgroups_v1 + (order.request.user != 0 ? 2 : 0))
        return fail(Code::invalid_argument, "zygote: what came is no order (" +
                                                std::to_string(descriptors.size()) +
                                                " descriptors)");
    UniqueFd* fixed[] = {&order.log,     &order.ready, &order.lease, &order.console,
                         &order.control, &order.vsock, &order.go};
    static_assert(std::size(fixed) == ZygoteRequest::kFixedDescriptors);
    for (size_t index = 0; index < std::size(fixed); index++)
        *fixed[index] = std::move(descriptors[index]);
    for (uint32_t count = 0; count < order.request.cgroups_v1; count++) {
        order.cgroups_v1.push_back(std::move(descriptors.back()));
        descriptors.pop_back();
    }
    if (order.request.cgroups != 0) {
        order.cgroup = std::move(descriptors.back());
        descriptors.pop_back();
    }
    if (order.request.user != 0) {
        order.mapper = std::move(descriptors.back());
        descriptors.pop_back();
        order.claim = std::move(descriptors.back());
        descriptors.pop_back();
    }
    for (size_t index = std::size(fixed); index < descriptors.size(); index++) {
        bool disk = order.disks.size() < order.request.disks;
        (disk ? order.disks : order.networks).push_back(std::move(descriptors[index]));
    }
    return std::optional(std::move(order));
}

void move_into(const std::vector<UniqueFd>& cgroups_v1) {
    for (const UniqueFd& tasks : cgroups_v1) {
        int fd = tasks.get();
        enter_cgroups_v1(&fd, 1);
    }
}

// The worker, from its fork on.
Result<int> work(Kvm kvm, LoadedSnapshot snapshot, Order order, Vmm::Log log) {
    ::setsid();
    ::signal(SIGCHLD, SIG_DFL);
    if (::dup2(order.log.get(), STDOUT_FILENO) < 0 || ::dup2(order.log.get(), STDERR_FILENO) < 0)
        return fail_errno("dup2");
    StageTimer stages;
    if (order.request.stage_times != 0)
        stages.start();
    VmmFiles files;
    files.console = {Console::Kind::file, std::move(order.console)};
    files.control = std::move(order.control);
    files.lease = std::move(order.lease);
    files.clone.vsock = std::move(order.vsock);
    files.clone.go = std::move(order.go);
    for (size_t number = 0; number < order.disks.size(); number++) {
        DiskFile file;
        file.fd = std::move(order.disks[number]);
        file.path = "disk-" + std::to_string(number) + ".img";
        file.writable = true;
        files.clone.disks.push_back(std::move(file));
    }
    for (size_t number = 0; number < order.networks.size(); number++) {
        NetworkConfig network;  // named for messages; the MAC is the snapshot's
        bool tap = (order.request.taps >> number & 1) != 0;
        (tap ? network.tap : network.socket_path) = "network " + std::to_string(number);
        files.clone.networks.push_back(std::move(network));
    }
    files.clone.network_files = std::move(order.networks);
    order.log.reset();
    order.cgroup.reset();
    Vmm vmm(stages, std::move(log));
    if (is_jailed()) {
        JailOptions jail;
        jail.files_max = limits::kRingFiles + 256;
        jail.file_bytes_max = limits::kLayeredDiskBytesMax;
        jail.tasks_max = limits::kVmmTasksMax;
        if (order.request.cgroup[0] != '\0')
            jail.cgroup = order.request.cgroup;
        if (order.request.user != 0) {
            TRY(become_mapped_user(order.mapper.get()));
            jail.why_shared_user.clear();
        }
        order.mapper.reset();
        move_into(order.cgroups_v1);
        order.cgroups_v1.clear();  // closed, before it is jailed
        TRY(enter_worker_jail(jail));
        TRY(vmm.begin());
        TRY(restrict_thread(Role::loop));
    }
    return vmm.restore(
        std::move(kvm), std::move(snapshot), std::move(files),
        order.request.start == ZygoteStart::built ? CloneStart::built : CloneStart::prepared,
        std::move(order.ready));
}

// The worker is in the order's cgroup, or the order says from here on why it is not.
Result<pid_t> fork_process(Order& order) {
    if (is_jailed() && order.cgroup) {
        auto pid = fork_jailed(order.cgroup.get());
        if (pid)
            return pid;
        order.cgroup.reset();
        std::string why = pid.error().message.substr(0, sizeof(order.request.cgroup) - 1);
        std::memset(order.request.cgroup, 0, sizeof(order.request.cgroup));
        why.copy(order.request.cgroup, why.size());
    }
    if (is_jailed())
        return fork_jailed();
    pid_t pid = ::fork();
    if (pid < 0)
        return fail_errno("fork");
    return pid;
}

}  // namespace

Result<int> run_zygote(Kvm kvm, LoadedSnapshot snapshot, UniqueFd keeper, UniqueFd claim,
                       Vmm::Log log) {
    ::signal(SIGCHLD, SIG_IGN);  // nobody waits for workers: they are gone when they are gone
    for (;;) {
        auto order = TRY(receive_order(keeper.get()));
        if (!order)
            return 0;
        auto pid = fork_process(*order);
        if (pid && *pid == 0) {
            keeper.reset();
            claim.reset();
            return work(std::move(kvm), std::move(snapshot), std::move(*order), std::move(log));
        }
        ZygoteReply reply;
        reply.error = pid ? 0 : EAGAIN;
        if (::send(keeper.get(), &reply, sizeof(reply), MSG_NOSIGNAL) != sizeof(reply))
            return fail_errno("zygote: its keeper");
    }
}

}  // namespace spore
