// Kernel files through load_kernel(): any bytes give an error or a kernel within the memory.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "hypervisor/boot/kernel.h"
#include "hypervisor/boot/layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace spore;
    static GuestMemory memory = *GuestMemory::allocate(memory_extents(limits::kMemoryBytesMin));
    static int file = ::memfd_create("kernel", MFD_CLOEXEC);
    if (::ftruncate(file, 0) != 0 || ::pwrite(file, data, size, 0) != static_cast<ssize_t>(size))
        std::abort();

    KernelSource source;
    source.kernel = file;
    source.kernel_name = "kernel";
    source.initrd = size > 0 ? file : -1;  // its own initrd: what it holds does not matter
    source.initrd_name = "initrd";
    source.command_line = "console=ttyS0";
    auto boot = load_kernel(memory, source);
    if (!boot) {
        if (boot.error().message.find('\n') != std::string::npos)
            std::abort();
        return 0;
    }
    uint64_t end = memory.size();
    if (boot->entry.value() < layout::kKernelMin || boot->entry.value() >= boot->kernel_end ||
        boot->kernel_end > boot->initrd_start.value() ||
        boot->initrd_start.value() + boot->initrd_bytes > end)
        std::abort();
    kvm_regs regs;
    kvm_sregs sregs = {};
    start_state(*boot, regs, sregs);
    return 0;
}
