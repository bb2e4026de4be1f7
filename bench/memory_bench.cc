// What it costs to have a clone's working set in place, by the ways that Linux offers: each round
// maps an image anew, does what the way does ahead, then touches the working set as a guest would.
// The host's side alone: what the guest's second level of page tables costs is seen with a guest
// (ARCHITECTURE.md, The working set). ninja -C BUILD bench/memory_bench && BUILD/bench/memory_bench

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPage = 4096, kHugePage = 2 << 20;
constexpr size_t kImageBytes = 256 << 20;

struct Run {
    size_t first, pages;
    bool written;
};

// As many pages in as many runs in as many 2 MiB blocks, and as many of each written, as a clone of
// Debian's kernel touches for its identity and /bin/true: working-set.spore of a template made in
// tests/bed.
std::vector<Run> working_set() {
    constexpr size_t kReadRuns = 575, kReadPages = 1259, kWrittenRuns = 155, kWrittenPages = 215;
    constexpr size_t kBlocks = 33, kBlockPages = kHugePage / kPage;
    constexpr size_t kApart = kBlocks * kBlockPages / (kReadRuns + kWrittenRuns);
    std::vector<Run> runs;
    for (size_t index = 0; index < kReadRuns; index++)
        runs.push_back({0, index < kReadPages % kReadRuns ? 3u : 2u, false});
    for (size_t index = 0; index < kWrittenRuns; index++)
        runs.push_back({0, index < kWrittenPages % kWrittenRuns ? 2u : 1u, true});
    std::mt19937 random(20261126);
    std::shuffle(runs.begin(), runs.end(), random);
    for (size_t index = 0; index < runs.size(); index++) {
        size_t page = index * kApart + random() % (kApart - runs[index].pages);
        // The blocks are not neighbours.
        runs[index].first = page / kBlockPages * (kImageBytes / kHugePage / kBlocks) * kBlockPages +
                            page % kBlockPages;
    }
    return runs;
}

const std::vector<Run>& set() {
    static const std::vector<Run> runs = working_set();
    return runs;
}

[[noreturn]] void give_up(const char* what) {
    std::perror(what);
    std::exit(1);
}

// A file whose every page has content, in the page cache. $SPORE_BENCH_DIR says where (/tmp).
int image() {
    static const int file = [] {
        const char* directory = std::getenv("SPORE_BENCH_DIR");
        int made = ::open(directory != nullptr ? directory : "/tmp", O_TMPFILE | O_RDWR, 0600);
        if (made < 0)
            give_up("the image");
        std::vector<char> bytes(kHugePage, 'x');
        for (size_t done = 0; done < kImageBytes; done += bytes.size())
            if (::write(made, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
                give_up("writing the image");
        return made;
    }();
    return file;
}

class Memory {
  public:
    Memory(int flags, int file)
        : at_(static_cast<char*>(
              ::mmap(nullptr, kImageBytes, PROT_READ | PROT_WRITE, flags, file, 0))) {}
    ~Memory() {
        if (*this)
            ::munmap(at_, kImageBytes);
    }
    explicit operator bool() const { return at_ != MAP_FAILED; }
    char* page(size_t number) const { return at_ + number * kPage; }

    void touch() const {
        for (const Run& run : set()) {
            for (size_t page = run.first; page < run.first + run.pages; page++) {
                if (run.written)
                    *static_cast<volatile char*>(this->page(page)) = 'y';
                else
                    (void)*static_cast<volatile char*>(this->page(page));
            }
        }
    }

  private:
    char* at_;
};

// Maps, does `ahead` (false: this host cannot), touches; what ending it costs is not counted.
template <typename Ahead>
void measure(benchmark::State& state, int flags, int file, Ahead ahead) {
    for (auto _ : state) {
        auto memory = std::make_unique<Memory>(flags, file);
        if (!*memory || !ahead(*memory)) {
            state.SkipWithError(std::strerror(errno));
            break;
        }
        memory->touch();
        state.PauseTiming();
        memory.reset();
        state.ResumeTiming();
    }
}

bool nothing(const Memory&) {
    return true;
}

bool populate_runs(const Memory& memory) {
    for (const Run& run : set()) {
        if (::madvise(memory.page(run.first), run.pages * kPage,
                      run.written ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) != 0)
            return false;
    }
    return true;
}

bool populate_written(const Memory& memory) {
    for (const Run& run : set()) {
        if (run.written &&
            ::madvise(memory.page(run.first), run.pages * kPage, MADV_POPULATE_WRITE) != 0)
            return false;
    }
    return true;
}

// Fewer calls, more pages: reads joined over small gaps.
bool populate_joined(const Memory& memory) {
    constexpr size_t kGapPagesMax = 16;
    if (!populate_written(memory))
        return false;
    size_t begin = 0, end = 0;
    auto read = [&] {
        return begin == end ||
               ::madvise(memory.page(begin), (end - begin) * kPage, MADV_POPULATE_READ) == 0;
    };
    for (const Run& run : set()) {
        if (run.written)
            continue;
        if (begin == end || run.first - end > kGapPagesMax) {
            if (!read())
                return false;
            begin = run.first;
        }
        end = run.first + run.pages;
    }
    return read();
}

bool populate_all_for_reading(const Memory& memory) {
    return ::madvise(memory.page(0), kImageBytes, MADV_POPULATE_READ) == 0;
}

void demand(benchmark::State& state) {
    measure(state, MAP_PRIVATE | MAP_NORESERVE, image(), nothing);
}
void madvise_by_runs(benchmark::State& state) {
    measure(state, MAP_PRIVATE | MAP_NORESERVE, image(), populate_runs);
}
void madvise_written_runs(benchmark::State& state) {
    measure(state, MAP_PRIVATE | MAP_NORESERVE, image(), populate_written);
}
void madvise_joined_runs(benchmark::State& state) {
    measure(state, MAP_PRIVATE | MAP_NORESERVE, image(), populate_joined);
}
void madvise_read_in_one_call(benchmark::State& state) {
    measure(state, MAP_PRIVATE | MAP_NORESERVE, image(), populate_all_for_reading);
}
void map_populate(benchmark::State& state) {  // copies every page: the mapping is writable
    measure(state, MAP_PRIVATE | MAP_NORESERVE | MAP_POPULATE, image(), nothing);
}

// The working set copied; what else a guest touches would have to come by userfaultfd.
void preadv_to_anonymous(benchmark::State& state) {
    measure(state, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, [](const Memory& memory) {
        for (const Run& run : set()) {
            iovec part = {memory.page(run.first), run.pages * kPage};
            if (::preadv(image(), &part, 1, static_cast<off_t>(run.first * kPage)) !=
                static_cast<ssize_t>(part.iov_len))
                return false;
        }
        return true;
    });
}

// Anonymous memory that a userfaultfd fills from a mapping of the image.
class Faults {
  public:
    explicit Faults(const Memory& memory) : memory_(memory) {
        file_ = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
        uffdio_api api = {.api = UFFD_API, .features = 0, .ioctls = 0};
        uffdio_register range = {};
        range.range = {reinterpret_cast<uintptr_t>(memory.page(0)), kImageBytes};
        range.mode = UFFDIO_REGISTER_MODE_MISSING;
        usable_ = file_ >= 0 && ::ioctl(file_, UFFDIO_API, &api) == 0 &&
                  ::ioctl(file_, UFFDIO_REGISTER, &range) == 0;
    }
    ~Faults() {
        if (thread_.joinable()) {
            uint64_t one = 1;
            (void)!::write(stop_, &one, sizeof(one));
            thread_.join();
            ::close(stop_);
        }
        ::close(file_);
    }
    bool usable() const { return usable_; }
    bool copy(size_t first, size_t pages) const {
        uffdio_copy copy = {};
        copy.dst = reinterpret_cast<uintptr_t>(memory_.page(first));
        copy.src = reinterpret_cast<uintptr_t>(source().page(first));
        copy.len = pages * kPage;
        return ::ioctl(file_, UFFDIO_COPY, &copy) == 0 || errno == EEXIST;
    }
    // A thread answers each fault with one page.
    void serve() {
        stop_ = ::eventfd(0, EFD_CLOEXEC);
        thread_ = std::thread([this] {
            for (;;) {
                pollfd ready[] = {{file_, POLLIN, 0}, {stop_, POLLIN, 0}};
                if (::poll(ready, 2, -1) < 0 || ready[1].revents != 0)
                    return;
                uffd_msg message;
                if (::read(file_, &message, sizeof(message)) != sizeof(message))
                    continue;
                copy(
                    (message.arg.pagefault.address - reinterpret_cast<uintptr_t>(memory_.page(0))) /
                        kPage,
                    1);
            }
        });
    }

  private:
    static const Memory& source() {
        static const Memory memory(MAP_PRIVATE | MAP_NORESERVE, image());
        return memory;
    }
    const Memory& memory_;
    int file_ = -1, stop_ = -1;
    bool usable_ = false;
    std::thread thread_;
};

void userfaultfd_on_demand(benchmark::State& state) {
    for (auto _ : state) {
        Memory memory(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
        Faults faults(memory);
        if (!faults.usable()) {
            state.SkipWithError(std::strerror(errno));
            break;
        }
        faults.serve();
        memory.touch();
    }
}

void userfaultfd_copy_by_runs(benchmark::State& state) {
    std::unique_ptr<Faults> faults;
    measure(state, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, [&](const Memory& memory) {
        faults = std::make_unique<Faults>(memory);
        for (const Run& run : set()) {
            if (!faults->usable() || !faults->copy(run.first, run.pages))
                return false;
        }
        return true;
    });
}

// The image in huge pages, which clones share; a page that is written has a copy made of all of it
// (hugetlb), or its mapping split (transparent ones).
int huge_image(unsigned flags) {
    int file = static_cast<int>(::memfd_create("image", MFD_CLOEXEC | flags));
    if (file < 0 || ::ftruncate(file, kImageBytes) != 0)
        return -1;
    Memory memory(MAP_SHARED, file);
    if (!memory)
        return -1;
    if (flags == 0 && ::madvise(memory.page(0), kImageBytes, MADV_HUGEPAGE) != 0)
        return -1;
    std::memset(memory.page(0), 'x', kImageBytes);
    return file;
}
void hugetlb_image(benchmark::State& state) {
    static const int file = huge_image(MFD_HUGETLB);
    if (file < 0)
        state.SkipWithError("no huge pages to be had: vm.nr_hugepages");
    else
        measure(state, MAP_PRIVATE | MAP_NORESERVE, file, nothing);
}
void transparent_huge_image(benchmark::State& state) {
    static const int file = huge_image(0);
    if (file < 0)
        state.SkipWithError("no transparent huge pages of a memfd");
    else
        measure(state, MAP_PRIVATE | MAP_NORESERVE, file, [](const Memory& memory) {
            return ::madvise(memory.page(0), kImageBytes, MADV_HUGEPAGE) == 0;
        });
}

BENCHMARK(demand)->Unit(benchmark::kMicrosecond);
BENCHMARK(madvise_by_runs)->Unit(benchmark::kMicrosecond);
BENCHMARK(madvise_joined_runs)->Unit(benchmark::kMicrosecond);
BENCHMARK(madvise_written_runs)->Unit(benchmark::kMicrosecond);
BENCHMARK(madvise_read_in_one_call)->Unit(benchmark::kMicrosecond);
BENCHMARK(map_populate)->Unit(benchmark::kMicrosecond);
BENCHMARK(preadv_to_anonymous)->Unit(benchmark::kMicrosecond);
BENCHMARK(userfaultfd_copy_by_runs)->Unit(benchmark::kMicrosecond);
BENCHMARK(userfaultfd_on_demand)->Unit(benchmark::kMicrosecond);
BENCHMARK(hugetlb_image)->Unit(benchmark::kMicrosecond);
BENCHMARK(transparent_huge_image)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
