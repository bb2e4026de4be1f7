// UNTRUSTED: a snapshot's state, whatever its checksum says of it. Every length is checked here
// before a value is taken; what only the devices and KVM can judge, they judge when it is restored.

#include "hypervisor/base/limits.h"
#include "hypervisor/snapshot/state.h"
#include "schema/snapshot_generated.h"

namespace spore {

namespace fb = snapshot::fb;
using Bytes = flatbuffers::Vector<uint8_t>;

namespace {

std::unexpected<Error> corrupt(const std::string& what) {
    return fail(Code::corrupt, "snapshot state: " + what);
}

template <typename T>
Status copy_exact(const char* name, const Bytes* bytes, T& out) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (bytes->size() != sizeof(T))
        return corrupt(std::string(name) + ": " + std::to_string(bytes->size()) + " bytes, not " +
                       std::to_string(sizeof(T)));
    std::memcpy(&out, bytes->data(), sizeof(T));
    return {};
}

Status check_count(const char* name, size_t count, size_t least, size_t most) {
    if (count < least || count > most)
        return corrupt(std::string(name) + ": " + std::to_string(count) + " of them, must be " +
                       std::to_string(least) + " to " + std::to_string(most));
    return {};
}

Result<VcpuState> decode(const fb::Vcpu& vcpu) {
    VcpuState state;
    TRY(check_count("CPUID entries", vcpu.cpuid()->size(), 1, 256));
    for (const fb::CpuidEntry* entry : *vcpu.cpuid()) {
        kvm_cpuid_entry2 out = {};
        out.function = entry->function();
        out.index = entry->index();
        out.flags = entry->flags();
        out.eax = entry->eax();
        out.ebx = entry->ebx();
        out.ecx = entry->ecx();
        out.edx = entry->edx();
        state.cpuid.push_back(out);
    }
    TRY(copy_exact("regs", vcpu.regs(), state.regs));
    TRY(copy_exact("sregs", vcpu.sregs(), state.sregs));
    TRY(check_count("XSAVE bytes", vcpu.xsave()->size(), 4096, 64 * limits::kKiB));
    state.xsave.assign(vcpu.xsave()->begin(), vcpu.xsave()->end());
    TRY(copy_exact("xcrs", vcpu.xcrs(), state.xcrs));
    TRY(copy_exact("debugregs", vcpu.debugregs(), state.debugregs));
    TRY(copy_exact("lapic", vcpu.lapic(), state.lapic));
    TRY(copy_exact("events", vcpu.events(), state.events));
    TRY(check_count("MSRs", vcpu.msrs()->size(), 0, 512));
    for (const fb::Msr* msr : *vcpu.msrs())
        state.msrs.push_back({.index = msr->index(), .reserved = 0, .data = msr->value()});
    state.mp_state.mp_state = vcpu.mp_state();
    state.tsc_khz = vcpu.tsc_khz();
    return state;
}

Result<MemoryState> decode(const fb::Memory& memory) {
    MemoryState state;
    TRY(check_count("memory regions", memory.regions()->size(), 1, 2));
    uint64_t offset = 0;
    uint64_t next_free = 0;
    for (const fb::Region* region : *memory.regions()) {
        bool good =
            region->start() % 4096 == 0 && region->size() % 4096 == 0 && region->size() > 0 &&
            region->size() <= limits::kMemoryBytesMax && region->start() >= next_free &&
            region->start() <= 2 * limits::kMemoryBytesMax && region->image_offset() == offset;
        if (!good)
            return corrupt("memory regions overlap, wrap or are not whole pages");
        state.extents.push_back({GuestAddress(region->start()), region->size()});
        offset += region->size();
        next_free = region->start() + region->size();  // both at most 2^46: no wrap
    }
    state.image.file_bytes = memory.image_bytes();
    state.image.data_bytes = memory.data_bytes();
    if (state.image.file_bytes != offset)
        return corrupt("memory image of " + std::to_string(state.image.file_bytes) +
                       " bytes for regions of " + std::to_string(offset));
    uint64_t chunks = (offset + kImageChunkBytes - 1) / kImageChunkBytes;
    if (memory.chunk_hashes()->size() != chunks)
        return corrupt("memory checksums: " + std::to_string(memory.chunk_hashes()->size()) +
                       " for " + std::to_string(chunks) + " chunks");
    state.image.chunk_hashes.assign(memory.chunk_hashes()->begin(), memory.chunk_hashes()->end());
    return state;
}

Result<VirtioPciState> decode(const fb::Transport& transport) {
    VirtioPciState state;
    TRY(check_count("PCI configuration bytes", transport.config_space()->size(), 64, 4096));
    state.config.assign(transport.config_space()->begin(), transport.config_space()->end());
    TRY(check_count("MSI-X words", transport.msix_table()->size(), 4, 4 * MsiX::kVectorsMax));
    state.msix.table.assign(transport.msix_table()->begin(), transport.msix_table()->end());
    TRY(check_count("MSI-X pending bits", transport.msix_pending()->size(), 1, MsiX::kVectorsMax));
    for (uint8_t pending : *transport.msix_pending())
        state.msix.pending.push_back(pending != 0);
    state.device_feature_select = transport.device_feature_select();
    state.driver_feature_select = transport.driver_feature_select();
    state.driver_features = transport.driver_features();
    state.device_status = transport.status();
    state.isr = transport.isr();
    state.config_generation = transport.config_generation();
    state.queue_select = transport.queue_select();
    state.config_vector = transport.config_vector();
    TRY(check_count("virtqueues", transport.queues()->size(), 1, 16));
    TRY(check_count("virtqueue vectors", transport.queue_vectors()->size(),
                    transport.queues()->size(), transport.queues()->size()));
    state.queue_vectors.assign(transport.queue_vectors()->begin(),
                               transport.queue_vectors()->end());
    for (const fb::Queue* queue : *transport.queues()) {
        QueueState out;
        out.size = queue->size();
        out.ready = queue->ready();
        out.descriptor_table = queue->descriptor_table();
        out.available_ring = queue->available_ring();
        out.used_ring = queue->used_ring();
        out.next_available = queue->next_available();
        out.next_used = queue->next_used();
        out.signalled_used = queue->signalled_used();
        state.queues.push_back(out);
    }
    return state;
}

// The device judges the numbers (VsockDevice::restore).
Result<VsockState> decode(const fb::Vsock& vsock) {
    VsockState state;
    state.guest_cid = ContextId{vsock.guest_cid()};
    state.next_host_port = vsock.next_host_port();
    if (const fb::VsockCarried* carried = vsock.carried()) {
        VsockCarriedState& out = state.carried.emplace();
        out.ports = {carried->ports()->host(), carried->ports()->guest()};
        out.credit.guest_buffer_bytes = carried->guest_buffer_bytes();
        out.credit.guest_forwarded = carried->guest_forwarded();
        out.credit.sent = carried->sent();
        out.credit.received = out.credit.forwarded = carried->received();
        out.credit.published = carried->published();
        out.credit.announced = true;
        out.credit_asked = carried->credit_asked();
    }
    if (vsock.ended() != nullptr) {
        TRY(check_count("ended vsock connections", vsock.ended()->size(), 0,
                        limits::kVsockEndedMax));
        for (const fb::VsockPorts* ports : *vsock.ended())
            state.ended.push_back({ports->host(), ports->guest()});
    }
    return state;
}

Result<DeviceState> decode(const fb::Device& device) {
    DeviceState state;
    state.slot = device.transport()->slot();
    TRY(check_count("PCI slot", state.slot, 1, limits::kPciSlots - 1));
    state.transport = TRY(decode(*device.transport()));
    if (const fb::Disk* disk = device.kind_as_Disk()) {
        DiskState out;
        out.read_only = disk->read_only();
        out.layered = disk->layered();
        out.path = disk->path()->str();
        out.size_bytes = disk->size_bytes();
        TRY(check_count("disk layers", disk->layers()->size(), 0, 16));
        for (const fb::Layer* layer : *disk->layers())
            out.layers.push_back(
                {layer->path()->str(), layer->map() == nullptr ? "" : layer->map()->str()});
        state.kind = std::move(out);
    } else if (const fb::Network* network = device.kind_as_Network()) {
        NetworkState out;
        TRY(copy_exact("MAC address", network->mac(), out.mac));
        state.kind = out;
    } else if (const fb::Vsock* vsock = device.kind_as_Vsock()) {
        state.kind = TRY(decode(*vsock));
    } else if (device.kind_as_Rng() != nullptr) {
        state.kind = RngState{};
    } else {
        return corrupt("a device of an unknown kind");
    }
    return state;
}

SerialState decode(const fb::Serial& serial) {
    SerialState state;
    state.interrupt_enable = serial.interrupt_enable();
    state.line_control = serial.line_control();
    state.modem_control = serial.modem_control();
    state.scratch = serial.scratch();
    state.divisor = serial.divisor();
    state.fifo_enabled = serial.fifo_enabled();
    state.transmitter_empty_pending = serial.transmitter_empty_pending();
    state.input.assign(serial.input()->begin(), serial.input()->end());
    state.loopback.assign(serial.loopback()->begin(), serial.loopback()->end());
    return state;
}

}  // namespace

Result<MachineState> decode_state(std::span<const std::byte> payload) {
    flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(payload.data()),
                                   payload.size());
    if (!fb::VerifyMachineBuffer(verifier))
        return corrupt("is not what schema/snapshot.fbs describes");
    const fb::Machine& machine = *fb::GetMachine(payload.data());
    MachineState state;
    state.created_unix_ns = machine.created_unix_ns();
    state.spore_version = machine.spore_version()->str();
    state.cpu_vendor = machine.cpu_vendor()->str();
    state.cpu_template = machine.cpu_template()->str();
    TRY(copy_exact("clock", machine.clock(), state.clock));
    TRY(check_count("vCPUs", machine.vcpus()->size(), 1, limits::kVcpusMax));
    for (const fb::Vcpu* vcpu : *machine.vcpus())
        state.vcpus.push_back(TRY(decode(*vcpu)));
    state.memory = TRY(decode(*machine.memory()));
    TRY(check_count("devices", machine.devices()->size(), 0, limits::kPciSlots - 1));
    for (const fb::Device* device : *machine.devices())
        state.devices.push_back(TRY(decode(*device)));
    TRY(check_count("serial input bytes", machine.serial()->input()->size(), 0, 4096));
    TRY(check_count("serial loopback bytes", machine.serial()->loopback()->size(), 0, 4096));
    state.serial = decode(*machine.serial());
    return state;
}

}  // namespace spore
