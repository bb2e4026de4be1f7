#include "hypervisor/snapshot/state.h"
#include "schema/snapshot_generated.h"

namespace spore {

namespace fb = snapshot::fb;
using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

namespace {

template <typename T>
Offset<flatbuffers::Vector<uint8_t>> bytes_of(FlatBufferBuilder& builder, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return builder.CreateVector(reinterpret_cast<const uint8_t*>(&value), sizeof(value));
}

Offset<fb::Vcpu> encode(FlatBufferBuilder& builder, const VcpuState& vcpu) {
    std::vector<fb::CpuidEntry> cpuid;
    for (const kvm_cpuid_entry2& entry : vcpu.cpuid)
        cpuid.emplace_back(entry.function, entry.index, entry.flags, entry.eax, entry.ebx,
                           entry.ecx, entry.edx);
    std::vector<fb::Msr> msrs;
    for (const kvm_msr_entry& msr : vcpu.msrs)
        msrs.emplace_back(msr.index, msr.data);
    auto cpuid_at = builder.CreateVectorOfStructs(cpuid);
    auto regs = bytes_of(builder, vcpu.regs);
    auto sregs = bytes_of(builder, vcpu.sregs);
    auto xsave = builder.CreateVector(vcpu.xsave);
    auto xcrs = bytes_of(builder, vcpu.xcrs);
    auto debugregs = bytes_of(builder, vcpu.debugregs);
    auto lapic = bytes_of(builder, vcpu.lapic);
    auto events = bytes_of(builder, vcpu.events);
    auto msrs_at = builder.CreateVectorOfStructs(msrs);
    return fb::CreateVcpu(builder, cpuid_at, regs, sregs, xsave, xcrs, debugregs, lapic, events,
                          msrs_at, vcpu.mp_state.mp_state, vcpu.tsc_khz);
}

Offset<fb::Memory> encode(FlatBufferBuilder& builder, const MemoryState& memory) {
    std::vector<fb::Region> regions;
    uint64_t offset = 0;
    for (const MemoryExtent& extent : memory.extents) {
        regions.emplace_back(extent.start.value(), extent.size, offset);
        offset += extent.size;
    }
    auto regions_at = builder.CreateVectorOfStructs(regions);
    auto hashes = builder.CreateVector(memory.image.chunk_hashes);
    return fb::CreateMemory(builder, regions_at, memory.image.file_bytes, memory.image.data_bytes,
                            hashes);
}

Offset<fb::Transport> encode(FlatBufferBuilder& builder, uint8_t slot,
                             const VirtioPciState& state) {
    std::vector<fb::Queue> queues;
    for (const QueueState& queue : state.queues)
        queues.emplace_back(queue.size, queue.ready, queue.descriptor_table, queue.available_ring,
                            queue.used_ring, queue.next_available, queue.next_used,
                            queue.signalled_used);
    std::vector<uint8_t> pending(state.msix.pending.begin(), state.msix.pending.end());
    auto config = builder.CreateVector(state.config);
    auto table = builder.CreateVector(state.msix.table);
    auto pending_at = builder.CreateVector(pending);
    auto vectors = builder.CreateVector(state.queue_vectors);
    auto queues_at = builder.CreateVectorOfStructs(queues);
    return fb::CreateTransport(
        builder, slot, config, table, pending_at, state.device_feature_select,
        state.driver_feature_select, state.driver_features, state.device_status, state.isr,
        state.config_generation, state.queue_select, state.config_vector, vectors, queues_at);
}

struct EncodeKind {
    FlatBufferBuilder& builder;
    fb::DeviceKind type = fb::DeviceKind::NONE;

    Offset<void> operator()(const DiskState& disk) {
        type = fb::DeviceKind::Disk;
        std::vector<Offset<fb::Layer>> layers;
        for (const DiskState::Layer& layer : disk.layers)
            layers.push_back(fb::CreateLayerDirect(builder, layer.path.c_str(), layer.map.c_str()));
        return fb::CreateDiskDirect(builder, disk.read_only, disk.layered, disk.path.c_str(),
                                    disk.size_bytes, &layers)
            .Union();
    }
    Offset<void> operator()(const NetworkState& network) {
        type = fb::DeviceKind::Network;
        auto mac = builder.CreateVector(network.mac.data(), network.mac.size());
        return fb::CreateNetwork(builder, mac).Union();
    }
    Offset<void> operator()(const VsockState& vsock) {
        type = fb::DeviceKind::Vsock;
        Offset<fb::VsockCarried> carried;
        if (vsock.carried) {
            fb::VsockPorts ports(vsock.carried->ports.host, vsock.carried->ports.guest);
            const VsockCredit& credit = vsock.carried->credit;
            carried = fb::CreateVsockCarried(builder, &ports, credit.guest_buffer_bytes,
                                             credit.guest_forwarded, credit.sent, credit.received,
                                             credit.published, vsock.carried->credit_asked);
        }
        std::vector<fb::VsockPorts> ended;
        for (VsockPorts ports : vsock.ended)
            ended.emplace_back(ports.host, ports.guest);
        auto ended_at = builder.CreateVectorOfStructs(ended);
        return fb::CreateVsock(builder, static_cast<uint64_t>(vsock.guest_cid),
                               vsock.next_host_port, carried, ended_at)
            .Union();
    }
    Offset<void> operator()(const RngState&) {
        type = fb::DeviceKind::Rng;
        return fb::CreateRng(builder).Union();
    }
};

Offset<fb::Serial> encode(FlatBufferBuilder& builder, const SerialState& serial) {
    auto input = builder.CreateVector(serial.input);
    auto loopback = builder.CreateVector(serial.loopback);
    return fb::CreateSerial(builder, serial.interrupt_enable, serial.line_control,
                            serial.modem_control, serial.scratch, serial.divisor,
                            serial.fifo_enabled, serial.transmitter_empty_pending, input, loopback);
}

}  // namespace

std::vector<std::byte> encode_state(const MachineState& state) {
    FlatBufferBuilder builder(64 * 1024);
    std::vector<Offset<fb::Vcpu>> vcpus;
    for (const VcpuState& vcpu : state.vcpus)
        vcpus.push_back(encode(builder, vcpu));
    std::vector<Offset<fb::Device>> devices;
    for (const DeviceState& device : state.devices) {
        auto transport = encode(builder, device.slot, device.transport);
        EncodeKind encoder{builder};
        auto kind = std::visit(encoder, device.kind);
        devices.push_back(fb::CreateDevice(builder, transport, encoder.type, kind));
    }
    auto version = builder.CreateString(state.spore_version);
    auto vendor = builder.CreateString(state.cpu_vendor);
    auto cpu_template = builder.CreateString(state.cpu_template);
    auto clock = bytes_of(builder, state.clock);
    auto vcpus_at = builder.CreateVector(vcpus);
    auto memory = encode(builder, state.memory);
    auto devices_at = builder.CreateVector(devices);
    auto serial = encode(builder, state.serial);
    builder.Finish(fb::CreateMachine(builder, state.created_unix_ns, version, vendor, cpu_template,
                                     clock, vcpus_at, memory, devices_at, serial),
                   fb::MachineIdentifier());
    auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
    return {bytes.begin(), bytes.end()};
}

std::string disk_layer_file(size_t disk) {
    return "disk-" + std::to_string(disk) + ".img";
}
std::string disk_map_file(size_t disk) {
    return "disk-" + std::to_string(disk) + ".map";
}

}  // namespace spore
