// A snapshot's state with every checksum right and everything else wrong: each value that a file
// can carry, changed at random behind the format's back. Either a clean error or a VM that runs.

#include <algorithm>
#include <cstring>

#include "devices/virtio/vsock.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/state_file.h"
#include "tests/bad_input/support/seed.h"
#include "tests/bad_input/support/vmm_bench.h"

namespace spore::test {
namespace {

namespace stdfs = std::filesystem;

constexpr int kMutations = 500;

class Mutator {
  public:
    explicit Mutator(uint64_t seed) : random_(seed) {}

    // Changes one value, or a few bytes of one; returns what.
    std::string change(MachineState& state) {
        uint64_t choice = below(20);
        if (choice < 8 && !state.vcpus.empty())
            return change(state.vcpus[below(state.vcpus.size())]);
        if (choice < 17 && !state.devices.empty())
            return change(state.devices[below(state.devices.size())]);
        return change_machine(state);
    }

  private:
    uint64_t below(uint64_t bound) { return random_() % bound; }
    bool chance(unsigned in) { return below(in) == 0; }

    // A number of the kind that breaks things.
    uint64_t number() {
        switch (below(8)) {
            case 0:
                return 0;
            case 1:
                return ~uint64_t{0};
            case 2:
                return ~uint64_t{0} << below(64);
            case 3:
                return uint64_t{1} << below(64);
            case 4:
                return (uint64_t{1} << below(64)) - 1;
            case 5:
                return below(256);
            case 6:
                return below(128ull << 20);  // in and around its memory
            default:
                return random_();
        }
    }
    template <typename T>
    void set(T& value) {
        value = static_cast<T>(number());
    }
    void bytes(void* data, size_t size) {
        auto* target = static_cast<unsigned char*>(data);
        for (uint64_t count = 1 + below(4); count > 0 && size > 0; count--) {
            if (size >= 8 && chance(2)) {
                uint64_t value = number();
                std::memcpy(target + below(size / 8) * 8, &value, 8);
            } else {
                target[below(size)] = static_cast<unsigned char>(random_());
            }
        }
        if (chance(12)) {
            for (size_t index = 0; index < size; index++)
                target[index] = static_cast<unsigned char>(random_());
        }
    }
    template <typename T>
    void list(std::vector<T>& values) {
        uint64_t how = below(4);
        if (how == 0 && !values.empty())
            values.erase(values.begin() + static_cast<ssize_t>(below(values.size())));
        else if (how == 1 && !values.empty())
            values.push_back(values[below(values.size())]);
        else if (how == 2 && chance(4))
            values.resize(below(600), values.empty() ? T{} : values[0]);
        else if (how == 3 && chance(4))
            values.clear();
    }

    std::string change(VcpuState& vcpu) {
        switch (below(12)) {
            case 0:
                bytes(&vcpu.regs, sizeof(vcpu.regs));
                return "regs";
            case 1:
                bytes(&vcpu.sregs, sizeof(vcpu.sregs));
                return "sregs";
            case 2:
                bytes(&vcpu.xcrs, sizeof(vcpu.xcrs));
                return "xcrs";
            case 3:
                bytes(&vcpu.debugregs, sizeof(vcpu.debugregs));
                return "debugregs";
            case 4:
                bytes(&vcpu.lapic, sizeof(vcpu.lapic));
                return "lapic";
            case 5:
                bytes(&vcpu.events, sizeof(vcpu.events));
                return "events";
            case 6:
                if (!vcpu.msrs.empty()) {
                    kvm_msr_entry& msr = vcpu.msrs[below(vcpu.msrs.size())];
                    if (chance(2))
                        set(msr.index);
                    set(msr.data);
                }
                list(vcpu.msrs);
                return "msrs";
            case 7:
                if (!vcpu.cpuid.empty()) {
                    kvm_cpuid_entry2& entry = vcpu.cpuid[below(vcpu.cpuid.size())];
                    bytes(&entry, sizeof(entry));
                }
                list(vcpu.cpuid);
                return "cpuid";
            case 8:
                bytes(vcpu.xsave.data(), vcpu.xsave.size());
                return "xsave";
            case 9:
                vcpu.xsave.resize(below(5000) + (chance(2) ? 4000 : 0));
                return "xsave size";
            case 10:
                set(vcpu.mp_state.mp_state);
                return "mp_state";
            default:
                set(vcpu.tsc_khz);
                return "tsc_khz";
        }
    }

    std::string change(DeviceState& device) {
        VirtioPciState& pci = device.transport;
        switch (below(12)) {
            case 0:
                bytes(pci.config.data(), pci.config.size());
                return "PCI configuration";
            case 1:
                bytes(pci.msix.table.data(), pci.msix.table.size() * 4);
                return "MSI-X table";
            case 2:
                list(pci.msix.table);
                pci.msix.pending.resize(below(70), chance(2));
                return "MSI-X sizes";
            case 3:
                set(pci.device_status);
                set(pci.isr);
                return "device status";
            case 4:
                set(pci.driver_features);
                set(pci.device_feature_select);
                return "features";
            case 5:
                set(pci.queue_select);
                set(pci.config_vector);
                return "queue_select, config_vector";
            case 6:
                list(pci.queues);
                list(pci.queue_vectors);
                return "queues' count";
            case 7:
                set(device.slot);
                return "slot";
            case 8:
            case 9:
                return change_kind(device);
            default:
                return change_queue(pci);
        }
    }

    // A device that the driver had started, with the rings where it likes.
    std::string change_queue(VirtioPciState& pci) {
        if (pci.queues.empty())
            return "no queue";
        if (chance(2))
            pci.device_status = 0xf;
        if (chance(2))
            pci.driver_features = (uint64_t{1} << 32) | (chance(2) ? number() : 0);
        QueueState& queue = pci.queues[below(pci.queues.size())];
        queue.ready = !chance(4);
        if (chance(2))
            queue.size = static_cast<uint16_t>(1u << below(9));
        else
            set(queue.size);
        for (uint64_t* address :
             {&queue.descriptor_table, &queue.available_ring, &queue.used_ring}) {
            set(*address);
            if (chance(2))
                *address = below(64ull << 20) & ~uint64_t{15};
        }
        set(queue.next_available);
        set(queue.next_used);
        set(queue.signalled_used);
        if (!pci.queue_vectors.empty())
            set(pci.queue_vectors[below(pci.queue_vectors.size())]);
        return "a queue";
    }

    std::string change_kind(DeviceState& device) {
        if (chance(4)) {
            switch (below(4)) {
                case 0:
                    device.kind = DiskState{};
                    break;
                case 1:
                    device.kind = NetworkState{};
                    break;
                case 2:
                    device.kind = VsockState{ContextId{number()}, 1024, {}, {}};
                    break;
                default:
                    device.kind = RngState{};
            }
            return "another kind of device";
        }
        if (auto* disk = std::get_if<DiskState>(&device.kind)) {
            switch (below(5)) {
                case 0:
                    disk->read_only = !disk->read_only;
                    break;
                case 1:
                    disk->layered = !disk->layered;
                    break;
                case 2:
                    set(disk->size_bytes);
                    break;
                case 3:
                    list(disk->layers);
                    break;
                default:
                    for (DiskState::Layer& layer : disk->layers) {
                        if (chance(2))
                            layer.path.assign(below(300), chance(2) ? '/' : 'x');
                        if (chance(2))
                            layer.map = chance(2) ? layer.path : std::string("\n\0\x80", 3);
                    }
            }
            return "disk";
        }
        if (auto* vsock = std::get_if<VsockState>(&device.kind)) {
            change_vsock(*vsock);
            return "vsock";
        }
        return "nothing";
    }

    void change_vsock(VsockState& vsock) {
        if (chance(2)) {
            set(vsock.guest_cid);
            set(vsock.next_host_port);
            return;
        }
        if (chance(2)) {
            VsockCarriedState& carried = vsock.carried.emplace();
            carried.ports = {VsockDevice::kHostPortFirst + 7, 1024};
            carried.credit.announced = true;
            uint32_t* numbers[] = {
                &carried.ports.host,       &carried.ports.guest,
                &carried.credit.sent,      &carried.credit.guest_forwarded,
                &carried.credit.published, &carried.credit.guest_buffer_bytes,
                &carried.credit.received,
            };
            if (chance(2))
                set(*numbers[below(std::size(numbers))]);
        }
        for (uint64_t count = below(chance(4) ? 2000 : 4); count > 0; count--)
            vsock.ended.push_back({static_cast<uint32_t>(number()), static_cast<uint32_t>(count)});
        if (chance(2))
            std::ranges::sort(vsock.ended, {}, &VsockPorts::key);
    }

    std::string change_machine(MachineState& state) {
        switch (below(9)) {
            case 0:
                bytes(&state.clock, sizeof(state.clock));
                return "clock";
            case 1:
                if (!state.vcpus.empty())
                    state.vcpus.resize(below(20), VcpuState(state.vcpus[0]));
                return "vCPUs' count";
            case 2: {
                MemoryExtent& extent = state.memory.extents[0];
                if (chance(2))
                    extent.start = GuestAddress(number() & (chance(2) ? ~uint64_t{4095} : ~0ull));
                else
                    set(extent.size);
                return "memory region";
            }
            case 3:
                state.memory.extents = {{GuestAddress(0), 4096},
                                        {GuestAddress(number() & ~uint64_t{4095}),
                                         state.memory.image.file_bytes - 4096}};
                return "two memory regions";
            case 4:
                set(state.memory.image.file_bytes);
                list(state.memory.image.chunk_hashes);
                return "memory image";
            case 5:
                if (!state.devices.empty())
                    std::swap(state.devices[0], state.devices[below(state.devices.size())]);
                return "devices' order";
            case 6:
                list(state.devices);
                for (size_t index = 0; index < state.devices.size() && chance(2); index++)
                    state.devices[index].slot = static_cast<uint8_t>(index + 1);
                return "devices' count";
            case 7:
                set(state.serial.divisor);
                set(state.serial.interrupt_enable);
                set(state.serial.line_control);
                set(state.serial.modem_control);
                state.serial.input.assign(below(6000), 'i');
                state.serial.loopback.assign(chance(2) ? below(6000) : 0, 'l');
                return "serial";
            default:
                state.cpu_template.assign(below(100), chance(2) ? '\n' : 'x');
                if (chance(2))
                    state.cpu_vendor = state.cpu_template;
                return "names";
        }
    }

    std::mt19937_64 random_;
};

class HostileState : public VmmBench {};

TEST_F(HostileState, IsRefusedOrRuns) {
    const TinySnapshot* source = TinySnapshot::get();
    ASSERT_NE(source, nullptr);
    auto payload = read_state_file(source->directory() / kStateFile);
    ASSERT_TRUE(payload);
    auto good = decode_state(*payload);
    ASSERT_TRUE(good);
    Inventory source_before = Inventory::take(source->directory());
    stdfs::create_directory(here() / "vm");
    Launch call = launch({"--restore", "../snap", "--disk", "top", "--vsock", "v", "--control",
                          "control", "--serial", "none", "--ready-fd", "3"});
    call.directory = here() / "vm";

    uint64_t seed = test_seed();
    int ran = 0, flaws = 0;
    for (int count = 0; count < kMutations && flaws < 10; count++) {
        Mutator mutator(seed + static_cast<uint64_t>(count));
        MachineState state = *good;
        std::string what = mutator.change(state);
        for (int more = count % 3; more > 0; more--)
            what += ", " + mutator.change(state);
        stdfs::remove(here() / "encoded");
        ASSERT_TRUE(write_state_file(path("encoded"), encode_state(state)));
        source->variant(here() / "snap", read_file(here() / "encoded"));
        Inventory before = Inventory::take(here());
        Outcome outcome = start_and_end(call);
        ran += outcome.ran ? 1 : 0;
        if (outcome.ran)
            stdfs::remove(here() / "vm/top");  // it had one: its own
        std::string left = Inventory::difference(before, Inventory::take(here()));
        if (!outcome.flaw.empty() || !left.empty()) {
            flaws++;
            ADD_FAILURE() << "SPORE_TEST_SEED=" << seed + static_cast<uint64_t>(count) << " "
                          << what << ": " << outcome.flaw << left;
        }
    }
    std::string touched =
        Inventory::difference(source_before, Inventory::take(source->directory()));
    EXPECT_TRUE(touched.empty()) << touched;
    // Both ways out are taken, or the mutations test nothing.
    EXPECT_GT(ran, 10);
    EXPECT_LT(ran, kMutations - 10);
    std::printf("%d of %d ran\n", ran, kMutations);
}

}  // namespace
}  // namespace spore::test
