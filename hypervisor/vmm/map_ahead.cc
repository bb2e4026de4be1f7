#include "hypervisor/vmm/map_ahead.h"

#include <algorithm>
#include <array>

#include "hypervisor/kvm/kvm_abi.h"
#include "hypervisor/memory/page_tables.h"

namespace spore {

namespace {

constexpr uint64_t kPage = 4096;

// Reads one byte in each of RCX pages from RSI on; then says so.
constexpr uint8_t kDonePort = 0xf8;  // nobody's
constexpr std::array<uint8_t, 16> kLongReader = {
    0x8a, 0x06,                                     // again: mov al, [rsi]
    0x48, 0x81,      0xc6, 0x00, 0x10, 0x00, 0x00,  // add rsi, 4096
    0x48, 0xff,      0xc9,                          // dec rcx
    0x75, 0xf2,                                     // jnz again
    0xe6, kDonePort,                                // out kDonePort, al
};
// The same for a guest in protected mode without paging.
constexpr std::array<uint8_t, 14> kFlatReader = {
    0x8a, 0x06,                               // again: mov al, [esi]
    0x81, 0xc6,      0x00, 0x10, 0x00, 0x00,  // add esi, 4096
    0xff, 0xc9,                               // dec ecx
    0x75, 0xf4,                               // jnz again
    0xe6, kDonePort,                          // out kDonePort, al
};

Result<uint64_t> pre_fault(Vcpu& vcpu, std::span<const MemoryExtent> pages) {
    uint64_t mapped = 0;
    for (const MemoryExtent& extent : pages) {
        TRY(vcpu.pre_fault(extent.start, extent.size));
        mapped += extent.size / kPage;
    }
    return mapped;
}

// How the guest sees its memory, as far as there is a reader for it.
enum class Mode { other, long_mode, flat };

Mode mode_of(const VcpuState& state) {
    constexpr uint64_t kProtected = 1, kPaging = uint64_t{1} << 31, kLongModeActive = 1 << 10,
                       kFiveLevels = 1 << 12;
    constexpr uint64_t kBreakpoints = 0xff;  // one could be hit
    const kvm_sregs& sregs = state.sregs;
    if ((state.debugregs.dr7 & kBreakpoints) != 0 || (sregs.cr0 & kProtected) == 0)
        return Mode::other;
    if ((sregs.cr0 & kPaging) == 0)
        return Mode::flat;
    bool four_levels = (sregs.efer & kLongModeActive) != 0 && (sregs.cr4 & kFiveLevels) == 0;
    return four_levels ? Mode::long_mode : Mode::other;
}

// Where the guest has mapped `pages`, and a page for the reader.
PageTables::Found find_pages(Mode mode, const VcpuState& state, const GuestMemory& memory,
                             std::span<const MemoryExtent> pages) {
    if (mode == Mode::long_mode)
        return PageTables(memory, state.sregs.cr3).find(pages);
    PageTables::Found found;  // linear addresses are physical ones, of 32 bits
    for (const MemoryExtent& extent : pages) {
        if (extent.start.value() + extent.size <= UINT32_MAX)
            found.ranges.push_back({extent.start.value(), extent.start, extent.size});
    }
    uint64_t code = (state.sregs.cs.base + state.regs.rip) & ~(kPage - 1);
    if (code <= UINT32_MAX && memory.range(GuestAddress(code), kPage))
        found.code = MappedRange{code, GuestAddress(code), kPage};
    return found;
}

kvm_segment flat(uint16_t selector, bool code, Mode mode) {
    constexpr uint8_t kReadExecute = 11, kReadWrite = 3;
    kvm_segment segment = {};
    segment.limit = 0xffff'ffff;
    segment.selector = selector;
    segment.type = code ? kReadExecute : kReadWrite;
    segment.present = segment.s = segment.g = 1;
    segment.l = code && mode == Mode::long_mode;
    segment.db = !segment.l;
    return segment;
}

// Kernel code of the guest's address space: nothing that would have KVM give up what it has mapped.
Status enter_kernel(Vcpu& vcpu, const VcpuState& state, Mode mode) {
    kvm_sregs sregs = state.sregs;
    sregs.cs = flat(8, true, mode);
    sregs.ds = sregs.es = sregs.ss = flat(16, false, mode);
    std::fill(std::begin(sregs.interrupt_bitmap), std::end(sregs.interrupt_bitmap), 0);
    TRY(vcpu.set_events({}));
    TRY(vcpu.set_sregs(sregs));
    return vcpu.set_mp_state({KVM_MP_STATE_RUNNABLE});
}

Status leave_kernel(Vcpu& vcpu, const VcpuState& state) {
    TRY(vcpu.set_mp_state(state.mp_state));
    TRY(vcpu.set_regs(state.regs));
    TRY(vcpu.set_sregs(state.sregs));
    return vcpu.set_events(state.events);
}

Status run_reader(Vcpu& vcpu, uint64_t code, const MappedRange& range) {
    kvm_regs regs = {};
    regs.rip = code;
    regs.rflags = 2;  // interrupts off
    regs.rsi = range.linear;
    regs.rcx = range.size / kPage;
    TRY(vcpu.set_regs(regs));
    int error = 0;
    do {
        error = vcpu.run();
    } while ((error == EINTR && vcpu.run_page().immediate_exit == 0) || error == EAGAIN);
    if (error != 0)
        return fail_errno("mapping ahead: KVM_RUN", error);
    const kvm_run& run = vcpu.run_page();
    if (run.exit_reason != KVM_EXIT_IO || run.io.direction != KVM_EXIT_IO_OUT ||
        run.io.port != kDonePort)
        return fail(Code::internal, "mapping ahead: exit " + std::to_string(run.exit_reason) +
                                        " while the vCPU read its working set");
    return {};
}

Result<uint64_t> read_pages(Vcpu& vcpu, const VcpuState& state, const GuestMemory& memory,
                            std::span<const MemoryExtent> pages) {
    Mode mode = mode_of(state);
    if (mode == Mode::other)
        return 0;
    auto found = find_pages(mode, state, memory, pages);
    if (!found.code || found.ranges.empty())
        return 0;
    std::span<const std::byte> reader = std::as_bytes(std::span(kLongReader));
    if (mode == Mode::flat)
        reader = std::as_bytes(std::span(kFlatReader));
    std::array<std::byte, kLongReader.size()> room;
    auto kept = std::span(room).first(reader.size());
    TRY(memory.read_bytes(found.code->start, kept));
    TRY(memory.write_bytes(found.code->start, reader));
    TRY(enter_kernel(vcpu, state, mode));
    uint64_t mapped = 0;
    for (const MappedRange& range : found.ranges) {
        TRY(run_reader(vcpu, found.code->linear, range));
        mapped += range.size / kPage;
    }
    if (!TRY(vcpu.complete_access()))
        return fail(Code::internal, "mapping ahead: an exit after the last");
    TRY(leave_kernel(vcpu, state));
    TRY(memory.write_bytes(found.code->start, kept));
    return mapped;
}

}  // namespace

bool can_pre_fault(const Kvm& kvm) {
    return kvm.extension(kvm_abi::kCapPreFaultMemory) > 0;
}

Result<uint64_t> map_ahead(const Kvm& kvm, Vcpu& vcpu, const VcpuState& state,
                           const GuestMemory& memory, std::span<const MemoryExtent> pages) {
    if (can_pre_fault(kvm))
        return pre_fault(vcpu, pages);
    return read_pages(vcpu, state, memory, pages);
}

}  // namespace spore
