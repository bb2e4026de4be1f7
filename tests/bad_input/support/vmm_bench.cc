#include "tests/bad_input/support/vmm_bench.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "hypervisor/kvm/kvm.h"
#include "tests/bad_input/support/tiny_kernel.h"

namespace spore::test {

namespace stdfs = std::filesystem;
using namespace std::chrono_literals;

namespace {

VmmClient::Deadline soon() {
    return std::chrono::steady_clock::now() + 20s;
}

}  // namespace

Scratch::Scratch() {
    std::string pattern = "/tmp/spore-bad-input-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr)
        std::abort();
    path_ = pattern;
    ::chmod(pattern.c_str(), 0755);  // other users look in as well
}

Scratch::~Scratch() {
    std::error_code error;
    stdfs::remove_all(path_, error);
}

void write_file(const stdfs::path& path, std::string_view bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    ASSERT_TRUE(file) << path;
}

std::string read_file(const stdfs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return std::move(text).str();
}

std::string refusal_flaw(const Ended& ended, const std::string& name, int status,
                         const Words& words) {
    std::string flaw;
    if (ended.timed_out || ended.signal != 0 || ended.status != status)
        flaw += "exit status " + std::to_string(status) + " is due; ";
    if (!ended.err.starts_with(name + ": "))
        flaw += "standard error does not begin with '" + name + ": '; ";
    if (ended.err.empty() || ended.err.find('\n') != ended.err.size() - 1)
        flaw += "standard error is not one line; ";
    for (const std::string& word : words) {
        if (ended.err.find(word) == std::string::npos)
            flaw += "the error does not name '" + word + "'; ";
    }
    if (!ended.out.empty())
        flaw += "standard output is not empty; ";
    return flaw.empty() ? "" : flaw + ended.describe();
}

void VmmBench::SetUp() {
    auto kvm = Kvm::open();
    if (!kvm)
        GTEST_SKIP() << kvm.error().message;
    stand_apart();
    stdfs::create_directory(here() / "tmp");
    write_file(here() / "tiny.elf", tiny_kernel());
}

Launch VmmBench::launch(const Words& arguments) const {
    return {.program = SPORE_VMM_PATH,
            .arguments = arguments,
            .directory = here(),
            .environment = {{"TMPDIR", path("tmp")}},
            .prepare = {}};
}

void VmmBench::expect_refusal(const Words& arguments, int status, const Words& words,
                              std::function<bool()> prepare) {
    std::string line;
    for (const std::string& argument : arguments)
        line += argument + " ";
    SCOPED_TRACE(line);
    Launch call = launch(arguments);
    call.prepare = std::move(prepare);
    Inventory before = Inventory::take(here());
    std::string flaw = refusal_flaw(run_process(call), "spore-vmm", status, words);
    EXPECT_TRUE(flaw.empty()) << flaw;
    std::string left = Inventory::difference(before, Inventory::take(here()));
    EXPECT_TRUE(left.empty()) << left;
}

void VmmBench::expect_boot_refusal(const Words& arguments, int status, const Words& words) {
    Words all = {"--kernel", "tiny.elf", "--memory", "32M", "--serial", "none"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    expect_refusal(all, status, words);
}

Outcome start_and_end(const Launch& launch) {
    Outcome outcome;
    Process process = Process::start(launch);
    auto line = process.ready_line(20s);
    if (!line)
        outcome.flaw = "neither ready nor refused within 20 s; ";
    else if (*line == "ready\n")
        outcome.ran = true;
    else if (!line->starts_with("error ") || line->back() != '\n')
        outcome.flaw = "on the ready pipe: '" + *line + "'; ";
    if (outcome.ran) {
        // It may end by itself meanwhile: then there is nobody to ask.
        auto client = VmmClient::connect(launch.directory);
        if (client && client->status(soon()))
            (void)client->quit(soon());
    }
    outcome.ended = process.wait(20s);
    const Ended& ended = outcome.ended;
    bool own_end = outcome.ran && ended.status == 70 &&
                   ended.err.find("spore-vmm: the VM ended: ") != std::string::npos;
    if (ended.timed_out || ended.signal != 0)
        outcome.flaw += "did not end in order; ";
    else if (outcome.ran && ended.status != 0 && !own_end)
        outcome.flaw += "the VM ended without a reason; ";
    else if (!outcome.ran && (ended.status < 64 || ended.status > 77))
        outcome.flaw += "the exit status is none of the contract's; ";
    if (!outcome.ran && outcome.flaw.empty())
        outcome.flaw = refusal_flaw(ended, "spore-vmm", ended.status, {});
    if (!outcome.flaw.empty())
        outcome.flaw += ended.describe();
    return outcome;
}

const TinySnapshot* TinySnapshot::get() {
    static TinySnapshot snapshot;
    static std::string failure = snapshot.make();
    EXPECT_EQ(failure, "");
    return failure.empty() ? &snapshot : nullptr;
}

std::string TinySnapshot::make() {
    const stdfs::path& here = scratch_.path();
    directory_ = here / "snapshot";
    base_ = here / "base.img";
    stdfs::create_directory(directory_);
    write_file(here / "tiny.elf", tiny_kernel());
    write_file(base_, std::string(1 << 20, 'b'));
    Launch launch{.program = SPORE_VMM_PATH,
                  .arguments = {"--kernel", "tiny.elf", "--memory", "64M", "--disk",
                                "top.img,layer=" + base_.string() + ",size=2M", "--vsock", "v",
                                "--control", "control", "--serial", "file:log", "--ready-fd", "3"},
                  .directory = here,
                  .environment = {},
                  .prepare = {}};
    Process process = Process::start(launch);
    if (process.ready_line(30s) != "ready\n")
        return "not ready: " + process.wait(0s).describe();
    auto client = VmmClient::connect(here);
    if (!client)
        return client.error().message;
    for (auto limit = soon(); read_file(here / "log") != "R\n";) {
        if (std::chrono::steady_clock::now() > limit)
            return "the guest has not written its line";
        auto status = client->status(soon());
        if (!status)
            return status.error().message;
        ::usleep(20'000);
    }
    for (auto done : {client->snapshot(directory_, {}, soon()), client->quit(soon())}) {
        if (!done)
            return done.error().message;
    }
    Ended ended = process.wait(20s);
    return ended.status == 0 && !ended.timed_out ? "" : ended.describe();
}

void TinySnapshot::variant(const stdfs::path& where, std::string_view state) const {
    stdfs::remove_all(where);
    stdfs::create_directory(where);
    write_file(where / "state.spore", state);
    for (const char* name : {"memory.img", "disk-0.img", "disk-0.map"})
        stdfs::create_symlink(directory_ / name, where / name);
}

}  // namespace spore::test
