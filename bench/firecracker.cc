#include "bench/firecracker.h"

#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "hypervisor/base/clock.h"
#include "hypervisor/sandbox/vmm_client.h"

namespace spore::bench {

namespace {

constexpr char kGuestsByte = 7;  // bench/guest/guest.c
constexpr std::chrono::seconds kLimit{30};

// Sends a request of Firecracker's API.
Status send_request(int socket, const std::string& method, const std::string& path,
                    const std::string& body) {
    std::string text = method + " " + path +
                       " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       "Content-Length: " +
                       std::to_string(body.size()) + "\r\n\r\n" + body;
    if (::write(socket, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        return fail_errno("Firecracker's socket");
    return {};
}

}  // namespace

Status firecracker_agrees(int api) {
    char answer[4096] = {};
    ssize_t got = ::read(api, answer, sizeof(answer) - 1);
    if (got < 12 || std::string_view(answer, 10) != "HTTP/1.1 2")
        return fail(Code::unavailable, "Firecracker answered '" + std::string(answer) + "'");
    return {};
}

Status freestanding_guest_runs(Child& process, const std::filesystem::path&) {
    return process.wait_for(kGuestsByte, kLimit);
}

Result<Firecracker> Firecracker::create(std::string program, const FirecrackerGuest& guest,
                                        std::filesystem::path directory, const Ready& ready) {
    std::filesystem::create_directories(directory);
    Firecracker made(std::move(program), std::move(directory));
    made.pci_ = guest.pci;
    TRY(made.make_snapshot(guest, ready));
    return made;
}

// Without seccomp filters, which exist for musl builds only: a little faster than in production.
Result<Child> Firecracker::start(const std::filesystem::path& config) const {
    ::unlink((directory_ / "api").c_str());
    ::unlink((directory_ / "v").c_str());
    std::vector<std::string> words = {
        program_,  "--no-seccomp", "--api-sock", (directory_ / "api").string(),
        "--level", "Error",        "--log-path", (directory_ / "log").string()};
    if (pci_)
        words.push_back("--enable-pci");
    if (!config.empty()) {
        words.push_back("--config-file");
        words.push_back(config.string());
    }
    return Child::start(words);
}

Result<UniqueFd> Firecracker::connect() const {
    auto deadline = std::chrono::steady_clock::now() + kLimit;
    for (;;) {
        auto socket = connect_unix(directory_, "api", SOCK_STREAM);
        if (socket || std::chrono::steady_clock::now() > deadline)
            return socket;
        ::usleep(50);
    }
}

Status Firecracker::ask(const std::string& method, const std::string& path,
                        const std::string& body) const {
    auto socket = TRY(connect());
    TRY(send_request(socket.get(), method, path, body));
    return firecracker_agrees(socket.get());
}

Status Firecracker::make_snapshot(const FirecrackerGuest& guest, const Ready& ready) {
    nlohmann::json source = {{"kernel_image_path", guest.kernel}, {"boot_args", guest.boot_args}};
    if (!guest.initrd.empty())
        source["initrd_path"] = guest.initrd;
    auto drives = nlohmann::json::array();
    if (!guest.drive.empty())
        drives.push_back({{"drive_id", "root"},
                          {"path_on_host", guest.drive},
                          {"is_root_device", false},
                          {"is_read_only", false}});
    nlohmann::json config = {
        {"boot-source", source},
        {"drives", drives},
        {"machine-config", {{"vcpu_count", 1}, {"mem_size_mib", guest.memory_mib}}},
        {"vsock", {{"guest_cid", 3}, {"uds_path", vsock().string()}}}};
    std::ofstream(directory_ / "log");
    std::ofstream(directory_ / "config.json") << config.dump();
    auto child = TRY(start(directory_ / "config.json"));
    TRY(ready(child, vsock()));
    // What the guest goes on to write must not fill the pipe: Firecracker would wait for us.
    std::thread drain([out = child.output()] {
        char buffer[4096];
        while (::read(out, buffer, sizeof(buffer)) > 0) {
        }
    });
    auto asked = ask("PATCH", "/vm", R"({"state":"Paused"})");
    if (asked)
        asked = ask("PUT", "/snapshot/create",
                    nlohmann::json({{"snapshot_type", "Full"},
                                    {"snapshot_path", (directory_ / "state").string()},
                                    {"mem_file_path", (directory_ / "memory").string()}})
                        .dump());
    auto ended = child.end();
    drain.join();
    TRY(std::move(asked));
    return ended;
}

Result<Firecracker::Restored> Firecracker::restore(bool with_start) {
    std::string body =
        nlohmann::json(
            {{"snapshot_path", (directory_ / "state").string()},
             {"mem_backend",
              {{"backend_type", "File"}, {"backend_path", (directory_ / "memory").string()}}},
             {"resume_vm", true}})
            .dump();
    uint64_t begun = monotonic_ns();
    auto child = TRY(start());
    auto socket = TRY(connect());
    if (!with_start)
        begun = monotonic_ns();
    TRY(send_request(socket.get(), "PUT", "/snapshot/load", body));
    return Restored{std::move(child), begun, std::move(socket)};
}

Result<double> Firecracker::restore_to_first_exit(bool with_start) {
    auto restored = TRY(restore(with_start));
    if (auto seen = restored.process.wait_for(kGuestsByte, kLimit); !seen) {
        TRY(firecracker_agrees(restored.api.get()));  // what it says is better than "not in time"
        return std::unexpected(std::move(seen).error());
    }
    return static_cast<double>(monotonic_ns() - restored.begun_ns) / 1000;
}

}  // namespace spore::bench
