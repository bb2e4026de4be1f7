// The network namespace and the root that all jails of this host have in common.

#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/jail/empty_root.h"
#include "hypervisor/jail/namespaces.h"

namespace spore {

namespace {

std::string pin_path(const char* name) {
    return std::string(kPinsDirectory) + "/" + name;
}

// A namespace that is bound there, or nothing.
UniqueFd open_pin(const char* name) {
    UniqueFd fd(::open(pin_path(name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct statfs status = {};
    if (fd && (::fstatfs(fd.get(), &status) != 0 || status.f_type != NSFS_MAGIC))
        fd.reset();
    return fd;
}

// A child that is in the namespaces to be pinned, until `release` closes.
class Model {
  public:
    static Result<Model> create() {
        int ready[2], release[2];
        if (::pipe2(ready, O_CLOEXEC) != 0)
            return fail_errno("pipe");
        UniqueFd ready_reader(ready[0]), ready_writer(ready[1]);
        if (::pipe2(release, O_CLOEXEC) != 0)
            return fail_errno("pipe");
        UniqueFd release_reader(release[0]), release_writer(release[1]);
        pid_t pid = ::fork();
        if (pid < 0)
            return fail_errno("fork");
        if (pid == 0)
            be(ready_writer.get(), release_reader.get(), release_writer.get());
        ready_writer.reset();
        Model model(pid, std::move(release_writer));
        char byte = 0;
        if (::read(ready_reader.get(), &byte, 1) != 1)
            return fail(Code::host_unsupported,
                        "the jail's root and network: this host refuses their namespaces");
        return model;
    }
    Model(Model&& other) noexcept
        : pid_(std::exchange(other.pid_, -1)), release_(std::move(other.release_)) {}
    ~Model() {
        release_.reset();
        if (pid_ > 0)
            ::waitpid(pid_, nullptr, 0);
    }

    Status pin(const char* kind, const char* name) const {
        std::string from = "/proc/" + std::to_string(pid_) + "/ns/" + kind;
        std::string to = pin_path(name);
        UniqueFd file(::open(to.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
        if (!file)
            return fail_errno(to);
        if (::mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr) != 0)
            return fail_errno("binding " + from + " to " + to);
        return {};
    }

  private:
    Model(pid_t pid, UniqueFd release) : pid_(pid), release_(std::move(release)) {}

    [[noreturn]] static void be(int ready, int release, int other_end) {
        ::close(other_end);
        char byte = 0;
        if (::unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 || !enter_empty_root() ||
            ::write(ready, "r", 1) != 1)
            ::_exit(1);
        while (::read(release, &byte, 1) < 0 && errno == EINTR) {
        }
        ::_exit(0);
    }

    pid_t pid_;
    UniqueFd release_;
};

}  // namespace

Pins open_pins() {
    Pins pins;
    pins.network = open_pin("network");
    if (pins.network)
        pins.root = open_pin("root");
    if (!pins.root)
        pins.network.reset();
    return pins;
}

Status pin_namespaces() {
    if (open_pins().root)
        return {};
    if (::mkdir(kPinsDirectory, 0700) != 0 && errno != EEXIST)
        return fail_errno(kPinsDirectory);
    UniqueFd lock(::open(kPinsDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock || ::flock(lock.get(), LOCK_EX) != 0)
        return fail_errno(kPinsDirectory);
    if (open_pins().root)
        return {};
    // A mount namespace can be bound in a private mount only.
    if (::mount(kPinsDirectory, kPinsDirectory, nullptr, MS_BIND, nullptr) != 0 ||
        ::mount(nullptr, kPinsDirectory, nullptr, MS_PRIVATE, nullptr) != 0)
        return fail_errno(std::string(kPinsDirectory) + ": binding it to itself");
    auto model = TRY(Model::create());
    TRY(model.pin("mnt", "root"));
    return model.pin("net", "network");
}

Status unpin_namespaces() {
    // Whatever lies over whatever, from the top.
    for (const std::string& path :
         {pin_path("network"), pin_path("root"), std::string(kPinsDirectory)}) {
        while (::umount2(path.c_str(), MNT_DETACH) == 0) {
        }
        if (errno != EINVAL && errno != ENOENT)
            return fail_errno(path);
    }
    return {};
}

}  // namespace spore
