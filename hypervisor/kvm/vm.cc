#include "hypervisor/kvm/vm.h"

#include <sys/ioctl.h>

#include <cassert>

namespace spore {

namespace {
// Pages in the hole that KVM takes for itself on Intel hosts without unrestricted guests
// (boot/layout.h keeps them free).
constexpr uint64_t kIdentityMap = 0xfffbc000;
constexpr uint64_t kTss = 0xfffbd000;
}  // namespace

Result<Vm> Vm::create(const Kvm& kvm) {
    int made = -1;
    do {
        made = ::ioctl(kvm.fd(), KVM_CREATE_VM, 0);
    } while (made < 0 && errno == EINTR);
    if (made < 0)
        return fail_errno("KVM_CREATE_VM");
    Vm vm{UniqueFd(made)};
    TRY(vm.enable(KVM_CAP_SPLIT_IRQCHIP, 0, "KVM_CAP_SPLIT_IRQCHIP"));
    if (kvm.extension(KVM_CAP_EXIT_ON_EMULATION_FAILURE) > 0)
        TRY(vm.enable(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1, "KVM_CAP_EXIT_ON_EMULATION_FAILURE"));
    if (kvm.extension(KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0) {
        uint64_t address = kIdentityMap;
        if (::ioctl(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, &address) != 0)
            return fail_errno("KVM_SET_IDENTITY_MAP_ADDR");
    }
    if (kvm.extension(KVM_CAP_SET_TSS_ADDR) > 0 && ::ioctl(vm.fd(), KVM_SET_TSS_ADDR, kTss) != 0)
        return fail_errno("KVM_SET_TSS_ADDR");
    return vm;
}

Status Vm::enable(unsigned capability, uint64_t argument, const char* name) const {
    kvm_enable_cap request = {};
    request.cap = capability;
    request.args[0] = argument;
    if (::ioctl(fd(), KVM_ENABLE_CAP, &request) != 0)
        return fail_errno(std::string("KVM_ENABLE_CAP ") + name);
    return {};
}

Status Vm::set_memory(const GuestMemory& memory) {
    return set_slots(memory, 0);
}

Status Vm::log_dirty_pages(const GuestMemory& memory, bool on) {
    return set_slots(memory, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

Result<std::vector<uint64_t>> Vm::take_dirty_pages(const GuestMemory& memory, uint32_t slot) const {
    constexpr uint64_t kPageBytes = 4096, kPagesPerWord = 64;
    assert(slot < memory.regions().size());
    uint64_t pages = memory.regions()[slot].size() / kPageBytes;
    std::vector<uint64_t> bitmap((pages + kPagesPerWord - 1) / kPagesPerWord);
    kvm_dirty_log request = {};
    request.slot = slot;
    request.dirty_bitmap = bitmap.data();
    if (::ioctl(fd(), KVM_GET_DIRTY_LOG, &request) != 0)
        return fail_errno("KVM_GET_DIRTY_LOG of slot " + std::to_string(slot));
    return bitmap;
}

Status Vm::set_slots(const GuestMemory& memory, uint32_t flags) {
    uint32_t slot = 0;
    for (const MemoryRegion& region : memory.regions()) {
        kvm_userspace_memory_region request = {};
        request.slot = slot++;
        request.flags = flags;
        request.guest_phys_addr = region.start.value();
        request.memory_size = region.size();
        request.userspace_addr = reinterpret_cast<uintptr_t>(region.mapping.data());
        if (::ioctl(fd(), KVM_SET_USER_MEMORY_REGION, &request) != 0)
            return fail_errno("KVM_SET_USER_MEMORY_REGION of " + std::to_string(region.size()) +
                              " bytes");
    }
    return {};
}

Status Vm::signal_msi(uint64_t address, uint32_t data) const {
    kvm_msi message = {};
    message.address_lo = static_cast<uint32_t>(address);
    message.address_hi = static_cast<uint32_t>(address >> 32);
    message.data = data;
    // 0: the guest has blocked it; that is its business.
    if (::ioctl(fd(), KVM_SIGNAL_MSI, &message) < 0)
        return fail_errno("KVM_SIGNAL_MSI");
    return {};
}

Status Vm::add_doorbell(GuestAddress address, int eventfd) const {
    return set_doorbell(address, eventfd, 0);
}

Status Vm::remove_doorbell(GuestAddress address, int eventfd) const {
    return set_doorbell(address, eventfd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

Status Vm::set_doorbell(GuestAddress address, int eventfd, uint32_t flags) const {
    kvm_ioeventfd request = {};
    request.addr = address.value();
    request.len = 0;  // any width
    request.fd = eventfd;
    request.flags = flags;
    if (::ioctl(fd(), KVM_IOEVENTFD, &request) != 0)
        return fail_errno("KVM_IOEVENTFD");
    return {};
}

Result<kvm_clock_data> Vm::clock() const {
    kvm_clock_data data = {};
    if (::ioctl(fd(), KVM_GET_CLOCK, &data) != 0)
        return fail_errno("KVM_GET_CLOCK");
    return data;
}

Status Vm::set_clock(const kvm_clock_data& clock) const {
    kvm_clock_data data = {};
    data.clock = clock.clock;
    // No KVM_CLOCK_REALTIME: the guest's monotonic clock goes on where it stood; the agent steps
    // the wall clock.
    if (::ioctl(fd(), KVM_SET_CLOCK, &data) != 0)
        return fail_errno("KVM_SET_CLOCK");
    return {};
}

Result<UniqueFd> Vm::create_vcpu(uint32_t index) const {
    int made = ::ioctl(fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(index));
    if (made < 0)
        return fail_errno("KVM_CREATE_VCPU " + std::to_string(index));
    return UniqueFd(made);
}

}  // namespace spore
