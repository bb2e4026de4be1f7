#include "bench/qemu.h"

#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include <nlohmann/json.hpp>

#include "hypervisor/sandbox/vmm_client.h"

namespace spore::bench {

namespace {

using json = nlohmann::json;

// A connection to QEMU's monitor (QMP): JSON lines, answers among events.
class Monitor {
  public:
    static Result<Monitor> connect(const std::filesystem::path& directory) {
        auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
        for (;;) {
            auto socket = connect_unix(directory, "qmp", SOCK_STREAM);
            if (socket) {
                Monitor monitor(std::move(*socket));
                TRY(monitor.read_line());  // its greeting
                TRY(monitor.ask("qmp_capabilities", json::object()));
                return monitor;
            }
            if (std::chrono::steady_clock::now() > deadline)
                return std::unexpected(std::move(socket).error());
            ::usleep(1000);
        }
    }

    Result<json> ask(const std::string& command, const json& arguments) {
        std::string text = json({{"execute", command}, {"arguments", arguments}}).dump() + "\n";
        if (::write(socket_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
            return fail_errno("QEMU's monitor");
        for (;;) {
            json answer = json::parse(TRY(read_line()), nullptr, false);
            if (answer.contains("return"))
                return answer["return"];
            if (answer.contains("error"))
                return fail(Code::unavailable, "QEMU: " + command + ": " + answer.dump());
        }
    }

  private:
    explicit Monitor(UniqueFd socket) : socket_(std::move(socket)) {}
    Result<std::string> read_line() {
        for (;;) {
            size_t end = rest_.find('\n');
            if (end != std::string::npos) {
                std::string line = rest_.substr(0, end);
                rest_.erase(0, end + 1);
                return line;
            }
            char buffer[4096];
            ssize_t got = ::read(socket_.get(), buffer, sizeof(buffer));
            if (got <= 0)
                return fail(Code::unavailable, "QEMU's monitor: closed");
            rest_.append(buffer, static_cast<size_t>(got));
        }
    }
    UniqueFd socket_;
    std::string rest_;
};

}  // namespace

Result<Qemu> Qemu::create(const std::string& program, const QemuGuest& guest,
                          std::filesystem::path directory) {
    std::filesystem::create_directories(directory);
    Qemu made;
    made.directory_ = std::move(directory);
    made.words_ = {program,
                   "-M",
                   "microvm,accel=kvm,acpi=on,pcie=on,pic=off,pit=off,rtc=off,isa-serial=off",
                   "-cpu",
                   "host",
                   "-smp",
                   "1",
                   "-m",
                   std::to_string(guest.memory_mib),
                   "-nodefaults",
                   "-no-user-config",
                   "-display",
                   "none",
                   "-kernel",
                   guest.kernel,
                   "-initrd",
                   guest.initrd,
                   "-append",
                   guest.boot_args,
                   "-drive",
                   "if=none,id=root,format=raw,file.locking=off,file=" + guest.drive,
                   "-device",
                   "virtio-blk-pci,drive=root",
                   "-device",
                   "vhost-vsock-pci,guest-cid=" + std::to_string(kCid),
                   "-device",
                   "virtio-rng-pci",
                   "-qmp",
                   "unix:" + (made.directory_ / "qmp").string() + ",server=on,wait=off"};
    return made;
}

Status Qemu::finish_save(Child& process) const {
    auto monitor = TRY(Monitor::connect(directory_));
    // Running: one that is stopped before is restored stopped.
    TRY(monitor.ask("migrate", {{"uri", "exec:cat > '" + (directory_ / "state").string() + "'"}}));
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    for (;;) {
        json now = TRY(monitor.ask("query-migrate", json::object()));
        std::string state = now.value("status", "");
        if (state == "completed")
            break;
        if (state == "failed" || std::chrono::steady_clock::now() > deadline)
            return fail(Code::unavailable, "QEMU: saving its state: " + now.dump());
        ::usleep(20'000);
    }
    return process.end();
}

Result<Child> Qemu::restore() const {
    std::vector<std::string> words = words_;
    words.push_back("-incoming");
    words.push_back("fd:0");
    return Child::start(words, (directory_ / "state").string());
}

Result<UniqueFd> connect_vsock(unsigned cid, unsigned port,
                               std::chrono::steady_clock::time_point deadline) {
    sockaddr_vm address = {};
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    for (;;) {
        UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (!socket)
            return fail_errno("an AF_VSOCK socket");
        if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0)
            return socket;
        if (std::chrono::steady_clock::now() > deadline)
            return fail_errno("connecting to the guest's vsock");
        ::usleep(1000);
    }
}

}  // namespace spore::bench
