#include "hypervisor/vmm/vmm.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "hypervisor/base/tell_ready.h"

namespace spore {

namespace {

// What KVM may take to make a VM: far above what it needs on the busiest host.
constexpr std::chrono::seconds kStartLimit{60};

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

}  // namespace

// The machine first: its devices drain through the loop, the others just let go.
Vmm::~Vmm() {
    machine_.reset();
    if (loop_)
        loop_->drain();
    control_.reset();
    console_.reset();
    signals_.reset();
    lease_.reset();
}

Result<int> Vmm::boot(const VmmOptions& options, UniqueFd ready) {
    return serve(boot_machine(options), std::move(ready));
}

Result<int> Vmm::restore(Kvm kvm, LoadedSnapshot snapshot, VmmFiles files, CloneStart start,
                         UniqueFd ready) {
    return serve(restore_machine(std::move(kvm), std::move(snapshot), files, start),
                 std::move(ready));
}

Status Vmm::begin() {
    if (loop_)
        return {};
    raise_file_limit();
    EventLoop::Options ring;
    ring.files = limits::kRingFiles;
    loop_ = TRY(EventLoop::create(ring));
    stages_.mark("ring");
    return {};
}

Status Vmm::boot_machine(const VmmOptions& options) {
    TRY(begin());
    console_ = TRY(Console::create(*loop_, TRY(Console::open_output(options.serial))));
    machine_ = TRY(Machine::boot(
        *loop_, options.machine,
        [this](std::span<const std::byte> bytes) { console_->write(bytes); },
        [this](const VmExit& exit) {
            exit_ = exit;
            loop_->stop();
        }));
    if (!options.control_path.empty())
        TRY(serve_control(TRY(bind_control_socket(options.control_path)), options.control_path));
    TRY(serve_signals(true));
    machine_->keep_files();
    listen_to_machine();
    if (!options.start_paused)
        machine_->run();
    return {};
}

Status Vmm::restore_machine(Kvm kvm, LoadedSnapshot snapshot, VmmFiles& files, CloneStart start) {
    TRY(begin());
    working_set_files_ = std::move(files.working_set);
    snapshot_unix_ns_ = snapshot.state.created_unix_ns;
    bool interactive = files.console.kind == Console::Kind::terminal;
    console_ = TRY(Console::create(*loop_, std::move(files.console)));
    machine_ = TRY(Machine::prepare_clone(
        *loop_, std::move(kvm), std::move(snapshot), std::move(files.clone), interactive, stages_,
        [this](std::span<const std::byte> bytes) { console_->write(bytes); },
        [this](const VmExit& exit) {
            exit_ = exit;
            loop_->stop();
        }));
    listen_to_machine();
    if (files.lease)
        watch_lease(std::move(files.lease));
    // The first vCPU's thread makes the VM, and runs it, while this one does the rest.
    machine_->start_clone(start, [this](Status status) { started_ = std::move(status); });
    if (files.control) {
        TRY(serve_control(std::move(files.control), files.control_path));
        files.made.keep();  // the server sees to it
    }
    TRY(serve_signals(interactive));
    stages_.mark("serve");
    if (!loop_->run_until([this] { return started_.has_value(); }, kStartLimit))
        return fail(Code::timeout, "KVM: did not make the VM in time");
    TRY(std::move(*started_));
    machine_->keep_files();
    return {};
}

void Vmm::listen_to_machine() {
    machine_->on_device_failure(log_);
    machine_->count_console([this](Machine::Counters& counters) {
        counters.emplace_back("console.bytes", console_->taken_bytes());
        counters.emplace_back("console.bytes_max", console_->bytes_max());
        counters.emplace_back("console.dropped_bytes", console_->dropped_bytes());
    });
}

Status Vmm::serve_control(UniqueFd socket, const std::string& path) {
    control_ = TRY(ControlServer::listen(*loop_, *machine_, std::move(socket), path));
    return {};
}

Status Vmm::serve_signals(bool with_input) {
    signals_ = TRY(loop_->add_file(TRY(block_signals())));
    loop_->read(signal_read_, signals_, signal_info_, EventLoop::kStream);
    if (with_input) {
        console_->start_input(
            [this](std::span<const std::byte> bytes) { machine_->push_input(bytes); },
            [this] { machine_->control_quit(); });
    }
    return {};
}

// Nothing is ever written to it: a read ends when the other end is gone.
void Vmm::watch_lease(UniqueFd lease) {
    auto file = loop_->add_file(std::move(lease));
    if (!file)
        return;
    lease_ = std::move(*file);
    leased_ = true;
    loop_->read(lease_read_, lease_, lease_byte_, EventLoop::kStream);
    machine_->on_first_run([this] { leased_ = false; });
}

Result<int> Vmm::serve(Status status, UniqueFd ready) {
    if (!tell_ready(std::move(ready), status) && status)
        status = fail(Code::unavailable, "whoever started this VM is gone");
    if (status) {
        loop_->run();
        console_->finish();
        if (working_set_files_)
            status = record_working_set();
    }
    TRY(std::move(status));
    return report_end();
}

// The guest runs or not: what it touches meanwhile is no loss.
Status Vmm::record_working_set() const {
    WorkingSet set;
    set.image_bytes = machine_->memory().size();
    set.created_unix_ns = snapshot_unix_ns_;
    set.runs = TRY(touched_pages(working_set_files_->pagemap.get(), machine_->memory()));
    return write_working_set(working_set_files_->file.get(), set);
}

Result<int> Vmm::report_end() const {
    bool orderly = exit_.reason == VmExit::Reason::power_off ||
                   exit_.reason == VmExit::Reason::reset || exit_.reason == VmExit::Reason::quit;
    if (orderly)
        return 0;
    return fail(Code::internal, "the VM ended: " + std::string(reason_name(exit_.reason)) +
                                    (exit_.detail.empty() ? "" : ": " + exit_.detail));
}

}  // namespace spore
