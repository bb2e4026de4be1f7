#include "hypervisor/sandbox/zygote.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>

#include "hypervisor/base/deadline.h"
#include "hypervisor/jail/jail.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/snapshot/state.h"

namespace spore {

namespace {

Status send_order(int socket, const WorkerFiles& files, ZygoteStart start, int mapper) {
    ZygoteRequest request;
    request.start = start;
    request.disks = static_cast<uint32_t>(files.disks.size());
    request.networks = static_cast<uint32_t>(files.networks.size());
    request.taps = files.taps;
    request.stage_times = files.stage_times;
    request.cgroups = files.cgroup >= 0;
    request.cgroups_v1 = static_cast<uint32_t>(files.cgroups_v1.size());
    request.user = files.user.id;
    files.cgroup_text.copy(request.cgroup, sizeof(request.cgroup) - 1);
    std::vector<int> descriptors;
    for (const UniqueFd* fixed : {&files.log, &files.ready, &files.lease, &files.console,
                                  &files.control, &files.vsock, &files.go})
        descriptors.push_back(fixed->get());
    for (const UniqueFd& disk : files.disks)
        descriptors.push_back(disk.get());
    for (const UniqueFd& network : files.networks)
        descriptors.push_back(network.get());
    if (files.user.id != 0)
        descriptors.insert(descriptors.end(), {files.user.claim.get(), mapper});
    if (files.cgroup >= 0)
        descriptors.push_back(files.cgroup);
    for (const UniqueFd& tasks : files.cgroups_v1)
        descriptors.push_back(tasks.get());
    if (request.disks > ZygoteRequest::kDisksMax || request.networks > ZygoteRequest::kNetworksMax)
        return fail(Code::invalid_argument, "zygote: " + std::to_string(request.disks) +
                                                " disks and " + std::to_string(request.networks) +
                                                " networks, at most " +
                                                std::to_string(ZygoteRequest::kDisksMax) + " and " +
                                                std::to_string(ZygoteRequest::kNetworksMax));
    iovec bytes = {&request, sizeof(request)};
    alignas(cmsghdr) char control[CMSG_SPACE(ZygoteRequest::kDescriptorsMax * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size() * sizeof(int));
    if (::sendmsg(socket, &message, MSG_NOSIGNAL) != sizeof(request))
        return fail(Code::unavailable, std::string("zygote: ") + std::strerror(errno));
    return {};
}

Result<UniqueFd> open_append(const std::string& path) {
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path);
    return file;
}

// A socket bound to `path` (short: a socket's is), for its owner only.
Result<UniqueFd> bind_socket(const std::string& path, int type) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
        return fail(Code::invalid_argument, "socket '" + path + "': its path is too long");
    path.copy(address.sun_path, path.size());
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket || ::fchmod(socket.get(), 0600) != 0 ||
        ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
        return fail_errno("socket '" + path + "'");
    return socket;
}

// The FIFO through which a worker gets its go, open for both ends: neither opening it nor reading
// it ever sees an end.
Result<UniqueFd> make_go(const std::string& path) {
    if (::mkfifo(path.c_str(), 0600) != 0)
        return fail_errno(path);
    UniqueFd go(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!go)
        return fail_errno(path);
    return go;
}

}  // namespace

Result<WorkerFiles> make_worker_files(const std::string& directory, const CgroupSpot& spot) {
    WorkerFiles files;
    if (auto user = TRY(claim_user_if_root())) {
        files.user = std::move(*user);
        if (::chown(directory.c_str(), files.user.id, files.user.id) != 0)
            return fail_errno(directory);
    }
    files.cgroup = spot.handle();
    files.cgroups_v1 = spot.open_v1(files.user.id != 0 ? files.user.id : kJailUser);
    files.cgroup_text = spot.text();
    files.log = TRY(open_append(directory + "/vmm.log"));
    files.console = TRY(open_append(directory + "/console.log"));
    files.control = TRY(bind_socket(directory + "/" + kControlName, SOCK_SEQPACKET));
    files.vsock = TRY(bind_socket(directory + "/" + kVsockName, SOCK_STREAM));
    files.go = TRY(make_go(directory + "/" + kGoName));
    return files;
}

std::vector<std::string> restore_arguments(const TemplateInfo& source, const std::string& top) {
    std::string disk = top + ",layer=" + source.base.string() +
                       ",layer=" + (source.directory / disk_layer_file(0)).string() + ":" +
                       (source.directory / disk_map_file(0)).string();
    std::vector<std::string> arguments = {"--jail", "--restore", source.directory.string(),
                                          "--disk", disk};
    if (source.sealed)
        arguments.push_back("--sealed");
    return arguments;
}

Result<Zygote> Zygote::start(const TemplateInfo& source, const std::filesystem::path& directory,
                             Deadline deadline, CgroupSpot* spot) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return fail_errno("socketpair");
    UniqueFd ours(ends[0]);
    UniqueFd theirs(ends[1]);
    auto arguments = restore_arguments(source, "-");
    arguments.push_back("--zygote-fd");
    arguments.push_back("4");
    auto process = TRY(start_vmm(TRY(Home::program("spore-vmm")), arguments, directory,
                                 directory / "keeper.log", deadline, theirs.get(), spot));
    return Zygote(std::move(ours), process);
}

Zygote::~Zygote() {
    if (!socket_)
        return;
    socket_.reset();  // it ends when it sees this
    (void)kill_process(process_, std::chrono::steady_clock::now() + std::chrono::seconds(5));
}

Status Zygote::fork_worker(const WorkerFiles& files, ZygoteStart start, Deadline deadline) {
    UserMapper mapper;
    if (files.user.id != 0)
        mapper = TRY(make_user_mapper());
    TRY(send_order(socket_.get(), files, start, mapper.worker.get()));
    mapper.worker.reset();
    TRY(wait_readable(socket_.get(), deadline, "zygote: did not answer in time"));
    ZygoteReply reply;
    ssize_t got = ::recv(socket_.get(), &reply, sizeof(reply), 0);
    if (got != sizeof(reply) || reply.magic != ZygoteRequest::kMagic)
        return fail(Code::unavailable, "zygote: has ended");
    if (reply.error != 0)
        return fail_errno("zygote: fork", reply.error);
    if (files.user.id == 0)
        return {};
    return map_worker_user(mapper.keeper.get(), files.user.id, milliseconds_until(deadline));
}

}  // namespace spore
