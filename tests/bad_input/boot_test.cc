// What a VM is to be made of is missing, broken, or not what it should be.

#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/bad_input/support/seed.h"
#include "tests/bad_input/support/tiny_kernel.h"
#include "tests/bad_input/support/vmm_bench.h"
#include "tests/unit/support/kernel_images.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;
using namespace std::chrono_literals;

constexpr int kUsage = 64, kData = 65, kNone = 66, kHost = 69, kExists = 73, kLimit = 75,
              kDenied = 77;

using BadKernel = VmmBench;
using BadOption = VmmBench;
using BadDisk = VmmBench;
using BadConnection = VmmBench;
using BadHost = VmmBench;

TEST_F(VmmBench, TheTinyGuestItselfBoots) {
    Outcome outcome = start_and_end(launch({"--kernel", "tiny.elf", "--memory", "32M", "--serial",
                                            "none", "--control", "control", "--ready-fd", "3"}));
    EXPECT_TRUE(outcome.ran);
    EXPECT_EQ(outcome.flaw, "");
}

TEST_F(BadKernel, IsMissing) {
    expect_refusal({"--serial", "none"}, kUsage, {"--kernel"});
    expect_refusal({"--kernel", "no/such", "--serial", "none"}, kNone, {"kernel 'no/such'"});
}

TEST_F(BadKernel, IsADirectory) {
    expect_refusal({"--kernel", "tmp", "--serial", "none"}, kUsage, {"kernel 'tmp'", "directory"});
}

TEST_F(BadKernel, IsUnreadable) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "only root can make a file that it may then not read";
    ASSERT_EQ(::chown(path("tiny.elf").c_str(), 65534, 65534), 0);
    ASSERT_EQ(::chmod(path("tiny.elf").c_str(), 0600), 0);
    // root, but no longer above file modes: /dev/kvm is its own and stays open to it.
    expect_refusal({"--kernel", "tiny.elf", "--serial", "none"}, kDenied,
                   {"kernel 'tiny.elf'", "Permission denied"}, [] {
                       return ::prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE) == 0 &&
                              ::prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH) == 0;
                   });
}

TEST_F(BadKernel, IsNone) {
    write_file(here() / "empty", "");
    write_file(here() / "text", std::string(100'000, 'x'));
    write_file(here() / "nonote.elf", tiny_kernel_without_note());
    expect_boot_refusal({"--kernel", "empty"}, kData, {"kernel 'empty'"});
    expect_boot_refusal({"--kernel", "text"}, kUsage, {"kernel 'text'", "not a kernel"});
    expect_boot_refusal({"--kernel", "nonote.elf"}, kUsage, {"kernel 'nonote.elf'", "PVH"});
}

TEST_F(BadKernel, IsAnElfCutAnywhere) {
    std::string whole = tiny_kernel();
    for (size_t size : {1, 4, 63, 64, 100, 119, 120, 175, 0x200, 0x20c, 0x217, 0x1000, 0x1001}) {
        write_file(here() / "cut.elf", whole.substr(0, size));
        // With nothing of its magic number left, it could as well be something else.
        expect_boot_refusal({"--kernel", "cut.elf"}, size < SELFMAG ? kUsage : kData,
                            {"kernel 'cut.elf'"});
    }
}

// The kernel of an image that was built in this tree, or else a made-up one.
std::string bzimage() {
    std::error_code error;
    stdfs::path images = stdfs::path(SPORE_SOURCE_ROOT) / "build/home/images";
    for (const auto& image : stdfs::directory_iterator(images, error)) {
        stdfs::path kernel = image.path() / "kernel/stock/vmlinuz";
        if (stdfs::exists(kernel, error))
            return read_file(kernel);
    }
    return BzImage().bytes();
}

TEST_F(BadKernel, IsABzImageCutAnywhere) {
    std::string whole = bzimage();
    constexpr size_t kMagicEnd = 0x206;  // cut before, it could as well be something else
    setup_header header;
    ASSERT_GT(whole.size(), 0x1f1 + sizeof(header));
    std::memcpy(&header, whole.data() + 0x1f1, sizeof(header));
    // What lies behind, a signature say, the kernel does not need.
    size_t needed = (header.setup_sects + 1) * 512 + size_t{header.syssize} * 16;
    ASSERT_LE(needed, whole.size());
    std::mt19937_64 random(test_seed());
    std::vector<size_t> cuts = {0, 1, 0x1f1, 0x201, 0x206, 0x230, 0x264, 512, 1024, needed - 1};
    while (cuts.size() < 40)
        cuts.push_back(random() % needed);
    for (size_t size : cuts) {
        write_file(here() / "cut", std::string_view(whole).substr(0, size));
        expect_boot_refusal({"--kernel", "cut", "--memory", "128M"},
                            size > 0 && size < kMagicEnd ? kUsage : kData, {"kernel 'cut'"});
    }
}

TEST_F(BadKernel, HasNoRoom) {
    write_file(here() / "initrd", std::string(33 << 20, 'i'));
    expect_boot_refusal({"--initrd", "initrd"}, kUsage, {"initrd"});
    expect_boot_refusal({"--cmdline", std::string(2048, 'c')}, kUsage, {"2048", "2047"});
}

TEST_F(BadKernel, HasABadInitrd) {
    write_file(here() / "empty", "");
    expect_boot_refusal({"--initrd", "no/such"}, kNone, {"initrd 'no/such'"});
    expect_boot_refusal({"--initrd", "tmp"}, kUsage, {"initrd 'tmp'", "directory"});
}

TEST_F(BadOption, MemoryThatIsNone) {
    for (const char* size : {"0", "31M", "33T", "lots", "-1", "12Q", "", "1MM", "64M ", "0x100",
                             "99999999999999999999", "18014398509481984K"})
        expect_boot_refusal({"--memory", size}, kUsage, {"memory"});
    expect_boot_refusal({"--memory", "33T"}, kUsage, {"33554432M"});
    expect_boot_refusal({"--memory", "31M"}, kUsage, {"32M"});
    expect_boot_refusal({"--memory", "lots"}, kUsage, {"'lots'"});
    expect_boot_refusal({"--memory", "33555432"}, kUsage, {"33555432", "4096"});
}

TEST_F(BadOption, MemoryThatTheHostHasNot) {
    expect_boot_refusal({"--memory", "31T"}, kLimit, {"memory", "32505856M", "this host has"});
}

TEST_F(BadOption, Cpus) {
    for (const char* cpus : {"0", "17", "x", "-1", "1.5", "", "4294967297"})
        expect_boot_refusal({"--cpus", cpus}, kUsage, {"cpus '" + std::string(cpus) + "'", "16"});
    expect_boot_refusal({"--cpu-template", "z80"}, kUsage, {"z80"});
}

TEST_F(BadOption, UnknownOnes) {
    expect_boot_refusal({"--frobnicate"}, kUsage, {"'--frobnicate'"});
    expect_boot_refusal({"-x"}, kUsage, {"'-x'"});
    expect_boot_refusal({"stray"}, kUsage, {"'stray'"});
    expect_boot_refusal({"--memory"}, kUsage, {"'--memory'", "value"});
    expect_boot_refusal({"--ready-fd", "x"}, kUsage, {"ready-fd", "'x'"});
    expect_boot_refusal({"--log-level", "loud"}, kUsage, {"log-level", "'loud'"});
    expect_boot_refusal({"--vsock-cid", "2"}, kUsage, {"vsock-cid", "'2'", "3"});
}

TEST_F(BadOption, ASerialConsoleThatCannotBe) {
    expect_boot_refusal({"--serial", "telnet"}, kUsage, {"'telnet'"});
    expect_boot_refusal({"--serial", "file:no/such/log"}, kNone, {"'no/such/log'"});
    expect_boot_refusal({"--serial", "file:tmp"}, kUsage, {"'tmp'"});
}

TEST_F(BadDisk, IsNone) {
    write_file(here() / "odd", std::string(1000, 'd'));
    write_file(here() / "empty", "");
    ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
    expect_boot_refusal({"--disk", "tmp"}, kUsage, {"disk 'tmp'", "directory"});
    expect_boot_refusal({"--disk", "tmp,ro"}, kUsage, {"disk 'tmp'", "directory"});
    expect_boot_refusal({"--disk", "no/such"}, kNone, {"disk 'no/such'"});
    expect_boot_refusal({"--disk", "odd"}, kUsage, {"disk 'odd'", "1000", "512"});
    expect_boot_refusal({"--disk", "empty"}, kUsage, {"disk 'empty'", "512"});
    expect_boot_refusal({"--disk", "fifo"}, kUsage, {"disk 'fifo'"});
    expect_boot_refusal({"--disk", ",ro"}, kUsage, {"disk ',ro'"});
    expect_boot_refusal({"--disk", "odd,rw"}, kUsage, {"'rw'"});
    expect_boot_refusal({"--disk", "odd,size=1M"}, kUsage, {"size="});
}

TEST_F(BadDisk, AreTooMany) {
    write_file(here() / "disk", std::string(512, 'd'));
    Words many;
    for (int count = 0; count < 32; count++)
        many.insert(many.end(), {"--disk", "disk,ro"});
    expect_boot_refusal(many, kUsage, {"32", "29"});
}

TEST_F(BadDisk, IsWrittenByAnotherVm) {
    write_file(here() / "disk", std::string(4096, 'd'));
    Process first = Process::start(launch({"--kernel", "tiny.elf", "--memory", "32M", "--serial",
                                           "none", "--disk", "disk", "--ready-fd", "3"}));
    ASSERT_EQ(first.ready_line(20s), "ready\n");
    expect_boot_refusal({"--disk", "disk"}, kHost, {"disk 'disk'", "in use"});
    expect_boot_refusal({"--disk", "disk,ro"}, kHost, {"disk 'disk'", "in use"});
    first.terminate();
    Ended ended = first.wait(20s);
    EXPECT_EQ(ended.status, 0) << ended.describe();
}

TEST_F(BadDisk, HasABadLayer) {
    write_file(here() / "base", std::string(1 << 20, 'b'));
    write_file(here() / "map", "this is no map, only text that is long enough to look at");
    write_file(here() / "empty", "");
    auto refuse = [&](const std::string& layers, int status, const Words& words) {
        expect_boot_refusal({"--disk", "top" + layers}, status, words);
    };
    refuse(",layer=no/such", kNone, {"'no/such'"});
    refuse(",layer=tmp", kUsage, {"'tmp'", "directory"});
    refuse(",layer=base,layer=base:no/map", kNone, {"'no/map'"});
    refuse(",layer=base,layer=base:map", kData, {"map"});
    refuse(",layer=base,layer=base:empty", kData, {"map"});
    refuse(",layer=base,layer=base:tmp", kData, {"'tmp'"});
    refuse(",layer=base,layer=base", kUsage, {"'base'", "map"});
    refuse(",layer=base,size=lots", kUsage, {"'lots'"});
    refuse(",layer=base,size=1000", kUsage, {"1000"});
    refuse(",layer=base,size=17T", kUsage, {"18691697672192"});
    refuse(",layer=base,ro", kUsage, {"ro"});
    std::string nine = ",layer=base";
    for (int count = 0; count < 9; count++)
        nine += ",layer=base:map";
    refuse(nine, kUsage, {"9", "8"});
}

TEST_F(BadDisk, LeavesNoTopBehindWhenAnotherPartFails) {
    write_file(here() / "base", std::string(1 << 20, 'b'));
    write_file(here() / "taken", "");
    Words disk = {"--disk", "top,layer=base"};
    auto with = [&](const Words& more) {
        Words all = disk;
        all.insert(all.end(), more.begin(), more.end());
        return all;
    };
    expect_boot_refusal(with({"--disk", "no/such"}), kNone, {"'no/such'"});
    expect_boot_refusal(with({"--vsock", "taken"}), kExists, {"'taken'"});
    expect_boot_refusal(with({"--kernel", "no/such"}), kNone, {"'no/such'"});
    expect_boot_refusal(with({"--control", "taken"}), kExists, {"'taken'"});
}

TEST_F(BadConnection, VsockPath) {
    write_file(here() / "file", "");
    std::string long_path(108, 'v');
    expect_boot_refusal({"--vsock", long_path}, kUsage, {long_path, "108", "107"});
    expect_boot_refusal({"--vsock", "file"}, kExists, {"'file'"});
    expect_boot_refusal({"--vsock", "tmp"}, kExists, {"'tmp'"});
    expect_boot_refusal({"--vsock", "no/such/dir"}, kNone, {"'no/such/dir'"});
}

TEST_F(BadConnection, VsockPathInUse) {
    Process first = Process::start(launch({"--kernel", "tiny.elf", "--memory", "32M", "--serial",
                                           "none", "--vsock", "v", "--ready-fd", "3"}));
    ASSERT_EQ(first.ready_line(20s), "ready\n");
    expect_boot_refusal({"--vsock", "v"}, kExists, {"'v'", "in use"});
    EXPECT_TRUE(stdfs::exists(here() / "v"));
    first.terminate();
    EXPECT_EQ(first.wait(20s).status, 0);
    EXPECT_FALSE(stdfs::exists(here() / "v"));
}

TEST_F(BadConnection, ControlPath) {
    write_file(here() / "file", "");
    std::string long_path(108, 'c');
    expect_boot_refusal({"--control", long_path}, kUsage, {long_path, "108", "107"});
    expect_boot_refusal({"--control", "file"}, kExists, {"'file'"});
    expect_boot_refusal({"--control", "no/such/dir"}, kNone, {"'no/such/dir'"});
}

TEST_F(BadConnection, Tap) {
    if (::geteuid() == 0)
        expect_boot_refusal({"--net", "tap=nosuchtap0"}, kNone, {"'nosuchtap0'"});
    expect_boot_refusal({"--net", "tap=a-name-far-too-long"}, kUsage,
                        {"'a-name-far-too-long'", "15"});
    expect_boot_refusal({"--net", "tap=a%d"}, kNone, {"'a%d'"});
    expect_boot_refusal({"--net", "tap="}, kUsage, {"tap="});
    expect_boot_refusal({"--net", ""}, kUsage, {"net"});
    expect_boot_refusal({"--net", "card=x"}, kUsage, {"'card'"});
    expect_boot_refusal({"--net", "tap=a,socket=b"}, kUsage, {"tap=a,socket=b"});
    expect_boot_refusal({"--net", "tap=t,mac=zz"}, kUsage, {"mac 'zz'"});
    expect_boot_refusal({"--net", "tap=t,mac=ff:ff:ff:ff:ff:ff"}, kUsage, {"mac"});
}

TEST_F(BadConnection, NetSocket) {
    write_file(here() / "file", "");
    UniqueFd unheard(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path("unheard").copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(unheard.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    std::string long_path(108, 'n');
    expect_boot_refusal({"--net", "socket=unheard"}, kHost, {"'unheard'", "nobody listens"});
    expect_boot_refusal({"--net", "socket=no/such"}, kNone, {"'no/such'"});
    expect_boot_refusal({"--net", "socket=file"}, kHost, {"'file'", "nobody listens"});
    expect_boot_refusal({"--net", "socket=" + long_path}, kUsage, {"108", "107"});
}

TEST_F(BadHost, DoesNotLetUsUseKvm) {
    struct stat status = {};
    ASSERT_EQ(::stat("/dev/kvm", &status), 0);
    if (::geteuid() != 0 || (status.st_mode & 0006) == 0006)
        GTEST_SKIP() << "needs root, to become another user, and a /dev/kvm not open to all";
    expect_refusal({"--kernel", "tiny.elf", "--serial", "none"}, kDenied,
                   {"/dev/kvm", "permission denied"}, [] {
                       return ::setresgid(65534, 65534, 65534) == 0 &&
                              ::setresuid(65534, 65534, 65534) == 0;
                   });
}

TEST_F(BadHost, HasNoKvm) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, for a mount namespace with an empty /dev";
    expect_refusal({"--kernel", "tiny.elf", "--serial", "none"}, kHost, {"/dev/kvm", "not there"},
                   [] {
                       return ::unshare(CLONE_NEWNS) == 0 &&
                              ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                              ::mount("empty", "/dev", "tmpfs", 0, nullptr) == 0;
                   });
}

}  // namespace
}  // namespace spore::test
