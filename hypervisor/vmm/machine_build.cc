// Machine: made from a configuration, with a kernel to boot.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/virtio/pci_layout.h"
#include "hypervisor/boot/acpi.h"
#include "hypervisor/boot/kernel.h"
#include "hypervisor/boot/layout.h"
#include "hypervisor/kvm/cpuid.h"
#include "hypervisor/vmm/machine.h"

namespace spore {

namespace {

Result<UniqueFd> open_readable(const char* what, const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd)
        return fail_errno(std::string(what) + " '" + path + "'");
    struct stat status = {};
    if (::fstat(fd.get(), &status) == 0 && S_ISDIR(status.st_mode))
        return fail(Code::invalid_argument, std::string(what) + " '" + path + "': is a directory");
    return fd;
}

// The host must have the memory: a guest that is promised more dies at some later moment.
Status check_host_memory(uint64_t bytes) {
    uint64_t host = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                    static_cast<uint64_t>(::sysconf(_SC_PAGE_SIZE));
    if (bytes > host)
        return fail(Code::resource_exhausted, "memory '" + std::to_string(bytes / limits::kMiB) +
                                                  "M': this host has " +
                                                  std::to_string(host / limits::kMiB) + "M");
    return {};
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::boot(EventLoop& loop, const MachineConfig& config,
                                               Serial::Sink console, OnEnd on_end) {
    TRY(validate(config));
    TRY(check_cpu_template(config.cpu_template));
    TRY(check_host_memory(config.memory_bytes));
    std::unique_ptr<Machine> machine(
        new Machine(loop, config, std::move(console), std::move(on_end)));
    machine->memory_ = TRY(GuestMemory::allocate(memory_extents(config.memory_bytes)));
    TRY(machine->build_vm());
    TRY(machine->add_devices());
    TRY(machine->make_vcpus());
    TRY(machine->load_boot_state());
    machine->built_monotonic_ns_ = monotonic_ns();
    return machine;
}

// Memory slots before anything is registered on the VM's buses (shared/facts.md).
spore::Status Machine::build_vm() {
    kvm_ = TRY(Kvm::open());
    vm_ = TRY(Vm::create(*kvm_));
    return vm_->set_memory(memory_);
}

spore::Status Machine::add_devices() {
    for (const DiskConfig& disk : config_.disks)
        TRY(add_disk(disk));
    for (const NetworkConfig& network : config_.networks)
        TRY(add_network(network, UniqueFd(network.tap_fd)));
    if (!config_.vsock_path.empty())
        TRY(add_vsock(config_.vsock_cid, UniqueFd()));
    return plug(std::make_unique<VirtioRng>(memory_, loop_));
}

spore::Status Machine::add_disk(const DiskConfig& config) {
    BlockConfig block;
    block.path = config.path;
    block.read_only = config.read_only;
    block.bytes = config.size_bytes;
    DiskState state;
    state.read_only = config.read_only;
    state.layered = !config.layers.empty();
    for (const DiskConfig::Layer& layer : config.layers) {
        state.layers.push_back({layer.path, layer.map});
        if (layer.map.empty() && block.base_path.empty() && block.layers.empty())
            block.base_path = layer.path;
        else if (layer.map.empty())
            return fail(Code::invalid_argument,
                        "disk layer '" + layer.path + "': only the lowest may be without a map");
        else
            block.layers.push_back({layer.path, layer.map});
    }
    block.copy_on_write = state.layered;
    block.create = state.layered && ::access(config.path.c_str(), F_OK) != 0;
    auto device =
        TRY(VirtioBlock::create(memory_, loop_, block, "block" + std::to_string(disks_.size())));
    if (block.create)
        made_files_.add(config.path);
    device->rate().change(config_.disk_rate);
    state.path = state.layered ? "" : config.path;
    state.size_bytes = device->disk().capacity();
    disks_.push_back({std::move(state), config.path, device.get()});
    return plug(std::move(device));
}

// `file`: its tap or its socket, if that is open already.
spore::Status Machine::add_network(const NetworkConfig& network, UniqueFd file) {
    NetConfig config;
    config.name = "net" + std::to_string(networks_.size());
    config.mac = network.mac.empty() ? TRY(random_mac()) : TRY(parse_mac(network.mac));
    if (!file) {
        config.tap = network.tap;
        config.socket_path = network.socket_path;
    } else {
        (network.tap.empty() ? config.socket_fd : config.tap_fd) = std::move(file);
    }
    auto device = TRY(VirtioNet::create(std::move(config), memory_, loop_));
    device->rx_rate().change(config_.network_rate);
    device->tx_rate().change(config_.network_rate);
    networks_.push_back(device.get());
    return plug(std::move(device));
}

spore::Status Machine::add_vsock(uint64_t cid, UniqueFd listener) {
    VsockConfig config;
    config.guest_cid = ContextId(cid);
    config.uds_path = config_.vsock_path;
    auto device = listener ? VsockDevice::create(config, std::move(listener), memory_, loop_)
                           : VsockDevice::create(config, memory_, loop_);
    if (!device)
        return std::unexpected(std::move(device).error());
    vsock_ = device->get();
    return plug(std::move(*device));
}

// Slots are taken in order; a slot decides the place of the BAR.
spore::Status Machine::plug(std::unique_ptr<VirtioDevice> device) {
    auto slot = static_cast<uint32_t>(devices_.size() + 1);
    devices_.push_back(std::move(device));
    transports_.push_back(
        std::make_unique<VirtioPciTransport>(*devices_.back(), loop_, *this, *this));
    transports_.back()->assign_bar(
        GuestAddress(layout::kPciMmioStart + uint64_t{slot} * pci_layout::kBarBytes));
    return bus_.attach(slot, *transports_.back());
}

spore::Status Machine::make_vcpus() {
    auto supported = TRY(kvm_->supported_cpuid());
    for (uint32_t index = 0; index < config_.cpus; index++) {
        auto vcpu = TRY(Vcpu::create(*kvm_, *vm_, index));
        TRY(vcpu.prepare_for_boot(
            TRY(make_cpuid(supported, config_.cpu_template, index, config_.cpus))));
        vcpus_.push_back(std::move(vcpu));
    }
    make_threads();
    attach_threads(0);
    return {};
}

// A clone's first is last, as it uses the others at once.
void Machine::make_threads() {
    threads_.resize(config_.cpus);
    auto on_end = [this](const VmExit& exit) { loop_.post([this, exit] { end(exit); }); };
    for (size_t index = config_.cpus; index-- > 0;) {
        VcpuThread::First first;
        if (index == 0 && state_ == RunState::prepared)
            first = [this](VcpuThread& self) { return begin_clone(self); };
        threads_[index] = std::make_unique<VcpuThread>(*this, on_end, std::move(first));
    }
}

void Machine::attach_threads(size_t first) {
    for (size_t index = first; index < threads_.size(); index++)
        threads_[index]->attach(vcpus_[index]);
}

spore::Status Machine::load_boot_state() {
    auto kernel = TRY(open_readable("kernel", config_.kernel));
    UniqueFd initrd;
    if (!config_.initrd.empty())
        initrd = TRY(open_readable("initrd", config_.initrd));
    KernelSource source;
    source.kernel = kernel.get();
    source.kernel_name = "kernel '" + config_.kernel + "'";
    source.initrd = initrd.get();
    source.initrd_name = "initrd '" + config_.initrd + "'";
    source.command_line = config_.command_line;
    auto boot = TRY(load_kernel(memory_, source));
    TRY(write_acpi_tables(memory_, config_.cpus));
    kvm_regs regs = TRY(vcpus_[0].regs());
    kvm_sregs sregs = TRY(vcpus_[0].sregs());
    start_state(boot, regs, sregs);
    TRY(vcpus_[0].set_sregs(sregs));
    return vcpus_[0].set_regs(regs);
}

}  // namespace spore
