#pragma once

// A vsock device between a model guest and host programs, all on the test's thread.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>
#include <string>

#include "tests/unit/support/scratch_directory.h"
#include "tests/unit/support/vsock_guest.h"

namespace spore::test {

// A host program's socket, never waiting.
class HostProgram {
  public:
    HostProgram() = default;
    explicit HostProgram(UniqueFd socket) : fd(std::move(socket)) {}

    size_t write(std::string_view bytes) {
        ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        broken |= n < 0 && errno != EAGAIN;
        return static_cast<size_t>(std::max<ssize_t>(n, 0));
    }
    // What there is to read, up to `most` bytes.
    std::string read(size_t most = 1 << 20) {
        static std::vector<char> buffer(1 << 20);  // one for all: tests read often
        ssize_t n = ::recv(fd.get(), buffer.data(), std::min(most, buffer.size()), MSG_DONTWAIT);
        ended |= n == 0 || (n < 0 && errno != EAGAIN);
        clean &= !(n < 0 && errno != EAGAIN);
        return {buffer.data(), static_cast<size_t>(std::max<ssize_t>(n, 0))};
    }
    void shut_write() { EXPECT_EQ(::shutdown(fd.get(), SHUT_WR), 0); }

    UniqueFd fd;
    bool ended = false;   // read the end
    bool clean = true;    // and it was no error
    bool broken = false;  // a write failed
};

class VsockWorld : public testing::TestWithParam<bool> {
  protected:
    void make(VsockGuest::Options options = {}) {
        if (!device)
            make_device();
        guest = std::make_unique<VsockGuest>(*device, memory, options);
        guest->start();
    }
    void make_device() {
        config.uds_path = directory + "/v";
        auto made = VsockDevice::create(config, memory, *loop);
        ASSERT_TRUE(made.has_value()) << made.error().message;
        device = std::move(*made);
    }
    void TearDown() override {
        stop();
        device.reset();
        loop->drain();
    }
    void stop() {
        bool done = !device;
        if (device)
            device->reset([&] { done = true; });
        EXPECT_TRUE(loop->run_until([&] { return done; }, limit));
    }
    void pause() {
        bool done = false;
        device->quiesce([&] { done = true; });
        ASSERT_TRUE(loop->run_until([&] { return done; }, limit));
    }

    // Lets everybody work until `done`; false if that takes too long.
    bool until(const std::function<bool()>& done) {
        return loop->run_until(
            [&] {
                // A few rounds between looks at the ring, as a guest on its own CPU would have.
                bool progress = true;
                for (int round = 0; progress && round < 4; round++) {
                    progress = guest && guest->step();
                    if (background)
                        progress |= background();
                    progress |= guest && std::exchange(guest->rang, false);
                    if (done())
                        return true;
                }
                if (progress)
                    loop->post([] {});
                return false;
            },
            limit);
    }
    // Lets everybody work until nothing moves any more.
    void settle() {
        for (int quiet = 0; quiet < 3;) {
            bool progress = guest && guest->step();
            if (background)
                progress |= background();
            int rounds = 0;
            loop->run_until([&] { return rounds++ == 3; }, std::chrono::milliseconds(30));
            quiet = progress ? 0 : quiet + 1;
        }
    }

    static UniqueFd unix_socket() {
        return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    }
    static sockaddr_un address(const std::string& path) {
        sockaddr_un a = {};
        a.sun_family = AF_UNIX;
        std::memcpy(a.sun_path, path.data(), path.size());
        return a;
    }
    HostProgram dial(std::string_view line) {
        UniqueFd fd = unix_socket();
        auto a = address(config.uds_path);
        EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
        HostProgram program(std::move(fd));
        EXPECT_EQ(program.write(line), line.size());
        return program;
    }
    UniqueFd listen(uint32_t port) {
        UniqueFd fd = unix_socket();
        auto a = address(config.uds_path + "_" + std::to_string(port));
        EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof(a)), 0);
        EXPECT_EQ(::listen(fd.get(), 2048), 0);
        return fd;
    }
    HostProgram accept(const UniqueFd& listener) {
        return HostProgram(
            UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)));
    }
    // A connection that the host begins, up to its OK line.
    std::pair<HostProgram, GuestConnection*> host_connection(uint32_t port = 52) {
        guest->listening.insert(port);
        HostProgram program = dial("CONNECT " + std::to_string(port) + "\n");
        std::string line;
        EXPECT_TRUE(until([&] {
            line += program.read(32);
            return line.ends_with("\n") || program.ended;
        }));
        EXPECT_TRUE(line.starts_with("OK ")) << line;
        uint32_t host_port = static_cast<uint32_t>(std::stoul(line.substr(3)));
        auto& c = guest->connections.at(VsockPorts{host_port, port}.key());
        EXPECT_TRUE(c.established);
        return {std::move(program), &c};
    }
    // A connection that the guest begins.
    std::pair<HostProgram, GuestConnection*> guest_connection(uint32_t port = 80,
                                                              uint32_t guest_port = 1000) {
        UniqueFd listener = listen(port);
        GuestConnection& c = guest->connect(port, guest_port);
        EXPECT_TRUE(until([&] { return c.established || c.finished; }));
        EXPECT_TRUE(c.established);
        std::filesystem::remove(config.uds_path + "_" + std::to_string(port));
        return {accept(listener), &c};
    }

    // Room for the ring's table and for both ends of more connections than there may be.
    rlim_t descriptors = [] {
        rlimit files = {};
        ::getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = std::min<rlim_t>(files.rlim_max, 16'384);
        ::setrlimit(RLIMIT_NOFILE, &files);
        return files.rlim_cur;
    }();
    std::chrono::milliseconds limit{60'000};
    const ScratchDirectory scratch{"vsock"};
    const std::string directory = scratch.path();
    GuestMemory memory = make_memory(32 * limits::kMiB);
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create({.files = limits::kRingFiles}));
    VsockConfig config;
    std::unique_ptr<VsockDevice> device;
    std::unique_ptr<VsockGuest> guest;
    std::function<bool()> background;  // host programs at work
};

}  // namespace spore::test
