// spore-floor: what any VMM must ask of the kernel for a guest's first instruction, and nothing
// more. No code of Spore's. Split irqchip, one memory slot over a private mapping, one vCPU with
// the state that a Linux guest needs, and the first exit. See --help.

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

// <linux/kvm.h>'s own have a flexible array by a macro whose size is 1 in C++: the ioctl numbers
// made of them are wrong.
template <typename Entry>
struct Table {
    uint32_t count = 0;
    uint32_t padding = 0;
    std::array<Entry, 256> entries = {};
};
struct Header {
    uint32_t count, padding;
};
static_assert(sizeof(Header) == 8 && sizeof(kvm_msr_entry) == 16 && sizeof(kvm_cpuid_entry2) == 40);
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, Header);
constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, Header);
constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, Header);
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, Header);

constexpr uint64_t kGuestAt = 0x10'0000;
constexpr uint8_t kGuest[] = {0xec, 0xeb, 0xfd};  // in al, dx; jmp to it

// What a restored Linux guest cannot do without: TSC, SYSENTER, PAT, fast strings, MTRR default,
// deadline timer, SYSCALL, GS, TSC_AUX, kvmclock (wall, system).
constexpr uint32_t kMsrs[] = {
    0x10,       0x174,      0x175,      0x176,      0x277,      0x1a0,      0x2ff,      0x6e0,
    0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103, 0x4b564d00, 0x4b564d01};

[[noreturn]] void give_up(const char* what) {
    std::fprintf(stderr, "spore-floor: %s: %s\n", what, std::strerror(errno));
    std::exit(70);
}

uint64_t now_ns() {
    timespec time = {};
    ::clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

int must(int result, const char* what) {
    if (result < 0)
        give_up(what);
    return result;
}

enum Stage { kVm, kChip, kMap, kSlot, kVcpu, kCpuid, kRegisters, kLapic, kMsr, kRun, kStages };
constexpr const char* kNames[kStages] = {"create_vm",   "irqchip", "mmap",      "memory_slot",
                                         "create_vcpu", "cpuid",   "registers", "lapic",
                                         "msrs",        "run"};

struct Round {
    std::array<uint64_t, kStages> ns = {};
    uint64_t total = 0;
    uint64_t tear_down = 0;
};

// All that is the same for each round.
struct Template {
    int kvm = -1;
    int image = -1;
    size_t bytes = 0;
    size_t run_bytes = 0;
    Table<kvm_cpuid_entry2> cpuid;
    kvm_regs regs = {};
    kvm_sregs sregs = {};
    kvm_lapic_state lapic = {};
    Table<kvm_msr_entry> msrs;
};

struct Machine {
    int vm = -1;
    int vcpu = -1;
    void* memory = nullptr;
    kvm_run* run = nullptr;
};

void use_split_chip(int vm) {
    kvm_enable_cap split = {};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    must(::ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
}

int create_vm(int kvm) {
    int vm = -1;
    do {
        vm = ::ioctl(kvm, KVM_CREATE_VM, 0);
    } while (vm < 0 && errno == EINTR);
    return must(vm, "KVM_CREATE_VM");
}

Machine make(const Template& from, Round& round) {
    Machine machine;
    uint64_t begun = now_ns(), last = begun;
    auto mark = [&](Stage stage) {
        uint64_t now = now_ns();
        round.ns[stage] = now - last;
        last = now;
    };
    machine.vm = create_vm(from.kvm);
    mark(kVm);
    use_split_chip(machine.vm);
    mark(kChip);
    machine.memory = ::mmap(nullptr, from.bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_NORESERVE, from.image, 0);
    if (machine.memory == MAP_FAILED)
        give_up("mmap of the image");
    mark(kMap);
    kvm_userspace_memory_region slot = {};
    slot.memory_size = from.bytes;
    slot.userspace_addr = reinterpret_cast<uintptr_t>(machine.memory);
    must(::ioctl(machine.vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
    mark(kSlot);
    machine.vcpu = must(::ioctl(machine.vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    void* run =
        ::mmap(nullptr, from.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, machine.vcpu, 0);
    if (run == MAP_FAILED)
        give_up("mmap of kvm_run");
    machine.run = static_cast<kvm_run*>(run);
    mark(kVcpu);
    must(::ioctl(machine.vcpu, kSetCpuid2, &from.cpuid), "KVM_SET_CPUID2");
    mark(kCpuid);
    must(::ioctl(machine.vcpu, KVM_SET_REGS, &from.regs), "KVM_SET_REGS");
    must(::ioctl(machine.vcpu, KVM_SET_SREGS, &from.sregs), "KVM_SET_SREGS");
    mark(kRegisters);
    must(::ioctl(machine.vcpu, KVM_SET_LAPIC, &from.lapic), "KVM_SET_LAPIC");
    mark(kLapic);
    if (::ioctl(machine.vcpu, kSetMsrs, &from.msrs) != static_cast<int>(from.msrs.count))
        give_up("KVM_SET_MSRS");
    mark(kMsr);
    must(::ioctl(machine.vcpu, KVM_RUN, 0), "KVM_RUN");
    mark(kRun);
    if (machine.run->exit_reason != KVM_EXIT_IO) {
        std::fprintf(stderr, "spore-floor: the first exit is %u, not KVM_EXIT_IO\n",
                     machine.run->exit_reason);
        std::exit(70);
    }
    round.total = last - begun;
    return machine;
}

void tear_down(const Template& from, Machine& machine) {
    ::munmap(machine.run, from.run_bytes);
    ::close(machine.vcpu);
    ::close(machine.vm);
    ::munmap(machine.memory, from.bytes);
}

kvm_segment flat(uint8_t type) {
    kvm_segment segment = {};
    segment.limit = 0xffff'ffff;
    segment.selector = type == 11 ? 0x08 : 0x10;
    segment.type = type;
    segment.present = segment.db = segment.s = segment.g = 1;
    return segment;
}

// The state of a guest in 32-bit protected mode, as a fresh vCPU has it otherwise.
void learn_state(Template& to) {
    int vm = create_vm(to.kvm);
    use_split_chip(vm);
    int vcpu = must(::ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    to.cpuid.count = static_cast<uint32_t>(to.cpuid.entries.size());
    must(::ioctl(to.kvm, kGetSupportedCpuid, &to.cpuid), "KVM_GET_SUPPORTED_CPUID");
    must(::ioctl(vcpu, kSetCpuid2, &to.cpuid), "KVM_SET_CPUID2");
    must(::ioctl(vcpu, KVM_GET_SREGS, &to.sregs), "KVM_GET_SREGS");
    must(::ioctl(vcpu, KVM_GET_LAPIC, &to.lapic), "KVM_GET_LAPIC");
    for (uint32_t index : kMsrs) {  // those that this host has
        Table<kvm_msr_entry> one;
        one.count = 1;
        one.entries[0].index = index;
        if (::ioctl(vcpu, kGetMsrs, &one) == 1 && ::ioctl(vcpu, kSetMsrs, &one) == 1)
            to.msrs.entries[to.msrs.count++] = one.entries[0];
    }
    to.regs.rip = kGuestAt;
    to.regs.rdx = 0x3fd;
    to.regs.rflags = 2;
    to.sregs.cs = flat(11);
    to.sregs.ds = to.sregs.es = to.sregs.fs = to.sregs.gs = to.sregs.ss = flat(3);
    to.sregs.cr0 |= 1;
    ::close(vcpu);
    ::close(vm);
}

Template prepare(size_t bytes) {
    Template made;
    made.bytes = bytes;
    made.kvm = must(::open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    made.run_bytes = static_cast<size_t>(
        must(::ioctl(made.kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "the size of kvm_run"));
    made.image = must(::memfd_create("image", MFD_CLOEXEC), "memfd_create");
    must(::ftruncate(made.image, static_cast<off_t>(bytes)), "ftruncate");
    if (::pwrite(made.image, kGuest, sizeof(kGuest), kGuestAt) != sizeof(kGuest))
        give_up("writing the guest");
    learn_state(made);
    return made;
}

uint64_t rank(std::vector<uint64_t> values, double part) {
    std::ranges::sort(values);
    return values[std::min(values.size() - 1,
                           static_cast<size_t>(part * static_cast<double>(values.size())))];
}

void print_line(const char* name, const std::vector<uint64_t>& values) {
    std::printf("%-14s %12.1f %12.1f\n", name, static_cast<double>(rank(values, 0.5)) / 1000,
                static_cast<double>(rank(values, 0.99)) / 1000);
}

void run_rounds(const Template& from, unsigned rounds) {
    std::array<std::vector<uint64_t>, kStages> stages;
    std::vector<uint64_t> totals, ends;
    for (unsigned index = 0; index < rounds; index++) {
        Round round;
        Machine machine = make(from, round);
        uint64_t begun = now_ns();
        tear_down(from, machine);
        ends.push_back(now_ns() - begun);
        totals.push_back(round.total);
        for (size_t stage = 0; stage < kStages; stage++)
            stages[stage].push_back(round.ns[stage]);
    }
    std::printf("%u rounds, %zu MiB, %u MSRs\n%-14s %12s %12s\n", rounds, from.bytes >> 20,
                from.msrs.count, "stage", "p50 us", "p99 us");
    for (size_t stage = 0; stage < kStages; stage++)
        print_line(kNames[stage], stages[stage]);
    print_line("total", totals);
    print_line("(tear-down)", ends);
}

// A round for each line on standard input: its stages' ns and the total on a line. The tear-down
// comes after the answer and before the next question is read.
void serve(const Template& from) {
    char line[16];
    while (std::fgets(line, sizeof(line), stdin) != nullptr) {
        Round round;
        Machine machine = make(from, round);
        for (uint64_t ns : round.ns)
            std::printf("%llu ", static_cast<unsigned long long>(ns));
        std::printf("%llu\n", static_cast<unsigned long long>(round.total));
        std::fflush(stdout);
        tear_down(from, machine);
        std::printf("done\n");
        std::fflush(stdout);
    }
}

// Ready, steady, go for `count` workers, and when the last of them was through; in shared memory,
// so that threads and processes do the same.
struct Start {
    pthread_barrier_t barrier;
    uint64_t finished[1024];
};

Start* make_start(unsigned count) {
    void* memory =
        ::mmap(nullptr, sizeof(Start), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        give_up("mmap of the barrier");
    auto* start = static_cast<Start*>(memory);
    pthread_barrierattr_t attributes;
    ::pthread_barrierattr_init(&attributes);
    ::pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    ::pthread_barrier_init(&start->barrier, &attributes, count + 1);
    return start;
}

// Every VM lives until all are there.
void work(const Template& from, Start& start, unsigned index) {
    ::pthread_barrier_wait(&start.barrier);
    Round round;
    Machine machine = make(from, round);
    start.finished[index] = now_ns();
    ::pthread_barrier_wait(&start.barrier);
    tear_down(from, machine);
}

// ns from the signal to the last first exit.
uint64_t at_once(const Template& from, unsigned count, bool processes) {
    Start* start = make_start(count);
    std::vector<std::thread> threads;
    for (unsigned index = 0; index < count; index++) {
        if (!processes) {
            threads.emplace_back(work, std::cref(from), std::ref(*start), index);
        } else if (must(::fork(), "fork") == 0) {
            work(from, *start, index);
            ::_exit(0);
        }
    }
    ::usleep(50'000);  // all of them stand at the barrier: starting them is not measured
    uint64_t begun = now_ns();
    ::pthread_barrier_wait(&start->barrier);
    ::pthread_barrier_wait(&start->barrier);
    uint64_t last = *std::max_element(start->finished, start->finished + count);
    for (std::thread& thread : threads)
        thread.join();
    while (processes && ::wait(nullptr) > 0) {
    }
    ::munmap(start, sizeof(Start));
    return last - begun;
}

constexpr const char* kHelp =
    R"(spore-floor [OPTIONS]: the time that the kernel takes to make a VM, to its first exit

  --memory MIB     of the image, a memfd, mapped privately (128)
  --rounds N       one after another, and a table of the stages (200)
  --serve          a round for each line on standard input: ns of every stage and in all
  --at-once N      N at a time, --rounds times: ns until the last one's first exit, a line each
  --processes      ... each in a process of its own instead of a thread
)";

unsigned number(const char* text, unsigned most) {
    char* end = nullptr;
    unsigned long value = std::strtoul(text, &end, 10);
    if (end == text || *end != '\0' || value == 0 || value > most) {
        std::fprintf(stderr, "spore-floor: '%s': must be a number from 1 to %u\n", text, most);
        std::exit(64);
    }
    return static_cast<unsigned>(value);
}

}  // namespace

int main(int argc, char** argv) {
    unsigned mebibytes = 128, rounds = 200, together = 0;
    bool serving = false, processes = false;
    for (int index = 1; index < argc; index++) {
        std::string option = argv[index];
        bool takes = option == "--memory" || option == "--rounds" || option == "--at-once";
        const char* value = takes && index + 1 < argc ? argv[++index] : "";
        if (option == "--memory") {
            mebibytes = number(value, 1 << 20);
        } else if (option == "--rounds") {
            rounds = number(value, 1'000'000);
        } else if (option == "--at-once") {
            together = number(value, 1024);
        } else if (option == "--serve") {
            serving = true;
        } else if (option == "--processes") {
            processes = true;
        } else {
            std::printf("%s", kHelp);
            return option == "--help" ? 0 : 64;
        }
    }
    Template from = prepare(size_t{mebibytes} << 20);
    if (serving) {
        serve(from);
    } else if (together != 0) {
        for (unsigned round = 0; round < rounds; round++) {
            std::printf("%llu\n",
                        static_cast<unsigned long long>(at_once(from, together, processes)));
            std::fflush(stdout);
        }
    } else {
        run_rounds(from, rounds);
    }
    return 0;
}
