// spore-vmm: one VM, one process. Reads its options, makes the machine, serves its loop to the end.

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "hypervisor/base/one_line.h"
#include "hypervisor/vmm/console.h"
#include "hypervisor/vmm/machine.h"
#include "hypervisor/vmm/options.h"

namespace spore {
namespace {

// One line to whoever started us: that the machine runs, or why not. Ours alone from here on. If
// nobody is there to read it, nobody will ever end us: end now.
bool tell_ready(int fd, const Status& status) {
    if (fd < 0)
        return true;
    std::string line = "ready\n";
    if (!status)
        line = "error " + std::string(code_name(status.error().code)) + " " +
               one_line(status.error().message) + "\n";
    bool told = ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
    ::close(fd);
    return told;
}

void start_logging(const std::string& level) {
    auto logger = std::make_shared<spdlog::logger>(
        "spore-vmm", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_level(spdlog::level::from_str(level));
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
    spdlog::set_default_logger(logger);
}

// Every vsock connection and every clone's disk is a descriptor.
void raise_file_limit() {
    rlimit limit = {};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, limits::kRingFiles + 256);
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

// SIGTERM, SIGINT and SIGHUP end the VM in order: they come in through the loop.
Result<UniqueFd> block_signals() {
    ::signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    for (int number : {SIGTERM, SIGINT, SIGHUP})
        sigaddset(&set, number);
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd)
        return fail_errno("signalfd");
    return fd;
}

class Vmm {
  public:
    explicit Vmm(VmmOptions options) : options_(std::move(options)) {
        options_.machine.interactive_console = options_.serial == "stdio";
    }

    // The exit status is for how the VM ended.
    Result<int> serve() {
        raise_file_limit();
        auto signals = TRY(block_signals());
        EventLoop::Options ring;
        ring.files = limits::kRingFiles;
        loop_ = TRY(EventLoop::create(ring));
        Status status = start(std::move(signals));
        if (!tell_ready(options_.ready_fd, status) && status)
            status = fail(Code::unavailable, "whoever started this VM is gone");
        if (status) {
            loop_->run();
            console_->finish();
        }
        tear_down();
        TRY(std::move(status));
        return report_end();
    }

  private:
    Status start(UniqueFd signals) {
        console_ = TRY(Console::open(*loop_, options_.serial));
        auto sink = [this](std::span<const std::byte> bytes) { console_->write(bytes); };
        auto on_end = [this](const VmExit& exit) {
            exit_ = exit;
            loop_->stop();
        };
        machine_ = options_.restore_directory.empty()
                       ? TRY(Machine::boot(*loop_, options_.machine, sink, on_end))
                       : TRY(Machine::restore(*loop_, options_.restore_directory, options_.machine,
                                              sink, on_end));
        if (!options_.control_path.empty())
            control_ = TRY(ControlServer::listen(*loop_, *machine_, options_.control_path));
        signals_ = TRY(loop_->add_file(std::move(signals)));
        loop_->read(signal_read_, signals_, signal_info_, EventLoop::kStream);
        console_->start_input(
            [this](std::span<const std::byte> bytes) { machine_->push_input(bytes); },
            [this] { machine_->control_quit(); });
        machine_->keep_files();
        if (!options_.start_paused)
            machine_->run();
        return {};
    }

    // The machine first: its devices drain through the loop, the others just let go.
    void tear_down() {
        machine_.reset();
        loop_->drain();
        control_.reset();
        console_.reset();
        signals_.reset();
    }

    Result<int> report_end() {
        bool orderly = exit_.reason == VmExit::Reason::power_off ||
                       exit_.reason == VmExit::Reason::reset ||
                       exit_.reason == VmExit::Reason::quit;
        if (orderly) {
            spdlog::info("the VM ended: {}", reason_name(exit_.reason));
            return 0;
        }
        return fail(Code::internal, "the VM ended: " + std::string(reason_name(exit_.reason)) +
                                        (exit_.detail.empty() ? "" : ": " + exit_.detail));
    }

    VmmOptions options_;
    std::unique_ptr<EventLoop> loop_;
    std::unique_ptr<Console> console_;
    RingFile signals_;
    std::array<std::byte, sizeof(signalfd_siginfo)> signal_info_ = {};
    Operation signal_read_{[this](int32_t result) {
        if (result > 0)
            machine_->control_quit();
    }};
    std::unique_ptr<ControlServer> control_;
    std::unique_ptr<Machine> machine_;
    VmExit exit_;
};

int main_with(int argc, char** argv) {
    // As `spore run` we speak in its name.
    const char* name = std::string_view(argv[0]) == "spore run" ? "spore" : "spore-vmm";
    auto report = [&](const Error& error) {
        std::fprintf(stderr, "%s: %s\n", name, one_line(error.message).c_str());
        return exit_status(error.code);
    };
    auto options = parse_vmm_options(argc, argv);
    if (!options)
        return report(options.error());
    if (options->help) {
        std::printf("%s [OPTIONS]\n\n%s", name, std::string(vmm_help()).c_str());
        return 0;
    }
    start_logging(options->log_level);
    Vmm vmm(std::move(*options));
    auto status = vmm.serve();
    return status ? *status : report(status.error());
}

}  // namespace
}  // namespace spore

int main(int argc, char** argv) {
    return spore::main_with(argc, argv);
}
