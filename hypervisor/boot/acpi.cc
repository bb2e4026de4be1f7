// Section numbers are those of ACPI 6.5.
#include "hypervisor/boot/acpi.h"

#include <array>
#include <cassert>
#include <cstring>

#include "hypervisor/boot/aml.h"
#include "hypervisor/boot/layout.h"

namespace spore {

namespace {

template <size_t N>
std::array<char, N - 1> characters(const char (&text)[N]) {
    std::array<char, N - 1> array;
    std::memcpy(array.data(), text, N - 1);
    return array;
}

struct [[gnu::packed]] TableHeader {  // §5.2.6
    std::array<char, 4> signature = {};
    uint32_t length = 0;
    uint8_t revision = 0;
    uint8_t checksum = 0;
    std::array<char, 6> oem_id = characters("SPORE ");
    std::array<char, 8> oem_table_id = characters("SPOREVM ");
    uint32_t oem_revision = 1;
    std::array<char, 4> creator_id = characters("SPOR");
    uint32_t creator_revision = 1;
};
static_assert(sizeof(TableHeader) == 36);

struct [[gnu::packed]] Rsdp {  // §5.2.5.3
    std::array<char, 8> signature = characters("RSD PTR ");
    uint8_t checksum = 0;  // of the first 20 bytes
    std::array<char, 6> oem_id = characters("SPORE ");
    uint8_t revision = 2;
    uint32_t rsdt = 0;
    uint32_t length = 36;
    uint64_t xsdt = 0;
    uint8_t extended_checksum = 0;
    std::array<uint8_t, 3> reserved = {};
};
static_assert(sizeof(Rsdp) == 36);

struct [[gnu::packed]] GenericAddress {  // §5.2.3.2
    uint8_t space = 0;
    uint8_t bits = 0;
    uint8_t offset = 0;
    uint8_t access = 0;
    uint64_t address = 0;
};
static_assert(sizeof(GenericAddress) == 12);

// §5.2.9. What reduced hardware ignores is left 0 and not named.
struct [[gnu::packed]] Fadt {
    TableHeader header;
    uint32_t facs = 0;
    uint32_t dsdt = 0;
    std::array<uint8_t, 65> fixed_hardware = {};
    uint16_t boot_architecture = 0;
    uint8_t reserved = 0;
    uint32_t flags = 0;
    GenericAddress reset_register;
    uint8_t reset_value = 0;
    uint16_t arm_boot_architecture = 0;
    uint8_t minor_version = 0;
    uint64_t x_facs = 0;
    uint64_t x_dsdt = 0;
    GenericAddress x_fixed_hardware[8];
    GenericAddress sleep_control;
    GenericAddress sleep_status;
    std::array<char, 8> hypervisor_vendor = characters("SPORE\0\0\0");
};
static_assert(offsetof(Fadt, boot_architecture) == 109);
static_assert(offsetof(Fadt, reset_register) == 116);
static_assert(offsetof(Fadt, x_dsdt) == 140);
static_assert(offsetof(Fadt, sleep_control) == 244);
static_assert(sizeof(Fadt) == 276);

// §5.2.9, table 5.9 and §5.2.9.3
constexpr uint32_t kWbinvd = 1 << 0;
constexpr uint32_t kNoFixedPowerButton = 1 << 4;
constexpr uint32_t kNoFixedSleepButton = 1 << 5;
constexpr uint32_t kResetRegisterSupported = 1 << 10;
constexpr uint32_t kHeadless = 1 << 12;
constexpr uint32_t kHardwareReduced = 1 << 20;
// No bit 1 (8042), no bit 3 (MSI not supported): MSI is all there is.
constexpr uint16_t kNoVga = 1 << 2;
constexpr uint16_t kNoAspm = 1 << 4;
constexpr uint16_t kNoCmosClock = 1 << 5;

struct [[gnu::packed]] Madt {  // §5.2.12
    TableHeader header;
    uint32_t local_apic = static_cast<uint32_t>(layout::kLapic);
    uint32_t flags = 0;  // no 8259s
};

struct [[gnu::packed]] MadtLocalApic {  // §5.2.12.2
    uint8_t type = 0;
    uint8_t length = 8;
    uint8_t processor_uid = 0;
    uint8_t apic_id = 0;
    uint32_t flags = 1;  // enabled
};
static_assert(sizeof(MadtLocalApic) == 8);

struct [[gnu::packed]] Mcfg {  // PCI Firmware Specification 3.3 §4.1.2
    TableHeader header;
    uint64_t reserved = 0;
    uint64_t base = layout::kEcamStart;
    uint16_t segment = 0;
    uint8_t first_bus = 0;
    uint8_t last_bus = static_cast<uint8_t>(layout::kEcamBytes / limits::kMiB - 1);
    uint32_t reserved_too = 0;
};
static_assert(sizeof(Mcfg) == 60);

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

// The byte that makes the sum of `bytes` 0 modulo 256.
std::byte checksum(std::span<const std::byte> bytes) {
    uint8_t sum = 0;
    for (std::byte byte : bytes)
        sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(byte));
    return static_cast<std::byte>(-sum);
}

// Lays tables out one behind the other and finishes their headers.
class TableWriter {
  public:
    // `table` begins with a TableHeader, to which signature, revision, length and checksum are put.
    GuestAddress add(const char* signature, uint8_t revision, std::vector<std::byte> table) {
        TableHeader header;
        std::memcpy(header.signature.data(), signature, header.signature.size());
        header.revision = revision;
        header.length = static_cast<uint32_t>(table.size());
        std::memcpy(table.data(), &header, sizeof(header));
        table[offsetof(TableHeader, checksum)] = checksum(table);
        GuestAddress address(next_);
        next_ = (next_ + table.size() + 15) & ~uint64_t{15};
        assert(next_ <= layout::kFirmwareEnd);
        tables_.push_back({signature, address, std::move(table)});
        return address;
    }
    std::vector<AcpiTable> take() { return std::move(tables_); }

  private:
    uint64_t next_ = layout::kAcpiTables;
    std::vector<AcpiTable> tables_;
};

GenericAddress port(uint16_t number) {
    GenericAddress address;
    address.space = 1;  // system I/O
    address.bits = 8;
    address.access = 1;  // by bytes
    address.address = number;
    return address;
}

aml::Bytes pci_host_bridge() {
    using namespace aml;
    auto resources = resource_template(
        {bus_numbers(0, 0), memory_window(layout::kPciMmioStart, layout::kPciMmioBytes)});
    // No _PRT: no device has an interrupt pin. No I/O window: none has I/O BARs.
    return device("PCI0", join({
                              name("_HID", eisa_id("PNP0A08")),
                              name("_CID", eisa_id("PNP0A03")),
                              name("_UID", integer(0)),
                              name("_SEG", integer(0)),
                              name("_BBN", integer(0)),
                              name("_CRS", resources),
                          }));
}

// The ECAM window and the ACPI registers, so that nothing else is put there.
aml::Bytes motherboard() {
    using namespace aml;
    auto resources = resource_template({fixed_memory(layout::kEcamStart, layout::kEcamBytes),
                                        fixed_ports(layout::kSleepControlPort, 3)});
    return device("MBRD", join({
                              name("_HID", eisa_id("PNP0C02")),
                              name("_UID", integer(0)),
                              name("_CRS", resources),
                          }));
}

// Without an interrupt (there is no controller for one), which makes Linux poll it.
aml::Bytes serial_port() {
    using namespace aml;
    auto resources = resource_template({fixed_ports(layout::kSerialPort, layout::kSerialPorts)});
    return device("COM1", join({
                              name("_HID", eisa_id("PNP0501")),
                              name("_UID", integer(1)),
                              name("_CRS", resources),
                          }));
}

std::vector<std::byte> dsdt() {
    using namespace aml;
    static_assert(layout::kResetPort == layout::kSleepControlPort + 2);
    std::array<uint64_t, 4> power_off = {layout::kSleepTypeS5, 0, 0, 0};  // §7.4.2.6
    return join({
        bytes_of(TableHeader{}),
        name("\\_S5", package(power_off)),
        scope("\\_SB", join({pci_host_bridge(), motherboard(), serial_port()})),
    });
}

std::vector<std::byte> fadt(GuestAddress dsdt_address) {
    Fadt table;
    table.dsdt = static_cast<uint32_t>(dsdt_address.value());
    table.x_dsdt = dsdt_address.value();
    table.minor_version = 3;
    table.boot_architecture = kNoVga | kNoAspm | kNoCmosClock;
    table.flags = kWbinvd | kNoFixedPowerButton | kNoFixedSleepButton | kResetRegisterSupported |
                  kHeadless | kHardwareReduced;
    table.reset_register = port(layout::kResetPort);
    table.reset_value = layout::kResetValue;
    table.sleep_control = port(layout::kSleepControlPort);
    table.sleep_status = port(layout::kSleepStatusPort);
    return aml::join({bytes_of(table)});
}

std::vector<std::byte> madt(uint32_t vcpus) {
    std::vector<std::byte> table = aml::join({bytes_of(Madt{})});
    for (uint32_t vcpu = 0; vcpu < vcpus; vcpu++) {
        MadtLocalApic entry;
        entry.processor_uid = static_cast<uint8_t>(vcpu);
        entry.apic_id = static_cast<uint8_t>(vcpu);
        table = aml::join({table, bytes_of(entry)});
    }
    return table;
}

constexpr auto kResetCode = std::to_array<std::byte>({
    std::byte{0xba}, std::byte{layout::kResetPort & 0xff}, std::byte{layout::kResetPort >> 8},
    std::byte{0xb0}, std::byte{layout::kResetValue},   // mov dx, port; mov al, value
    std::byte{0xee},                                   // out dx, al
    std::byte{0xf4}, std::byte{0xeb}, std::byte{0xfd}  // hlt; back to it
});
static_assert(layout::kResetVector + kResetCode.size() <= layout::kFirmwareEnd);

AcpiTable rsdp(GuestAddress xsdt) {
    Rsdp table;
    table.xsdt = xsdt.value();
    auto bytes = aml::join({bytes_of(table)});
    bytes[offsetof(Rsdp, checksum)] = checksum(std::span(bytes).first(20));
    bytes[offsetof(Rsdp, extended_checksum)] = checksum(bytes);
    return {"RSD PTR ", GuestAddress(layout::kRsdp), std::move(bytes)};
}

}  // namespace

std::vector<AcpiTable> make_acpi_tables(uint32_t vcpus) {
    assert(vcpus >= 1 && vcpus <= limits::kVcpusMax);
    static_assert(limits::kVcpusMax < 255, "local APIC entries name 8-bit IDs");
    static_assert(layout::kRsdp + sizeof(Rsdp) <= layout::kAcpiTables);
    TableWriter writer;
    GuestAddress dsdt_address = writer.add("DSDT", 2, dsdt());
    std::array<uint64_t, 3> entries = {
        writer.add("FACP", 6, fadt(dsdt_address)).value(),
        writer.add("APIC", 5, madt(vcpus)).value(),
        writer.add("MCFG", 1, aml::join({bytes_of(Mcfg{})})).value(),
    };
    GuestAddress xsdt =
        writer.add("XSDT", 1, aml::join({bytes_of(TableHeader{}), bytes_of(entries)}));
    auto tables = writer.take();
    tables.insert(tables.begin(), rsdp(xsdt));
    return tables;
}

Status write_acpi_tables(const GuestMemory& memory, uint32_t vcpus) {
    for (const AcpiTable& table : make_acpi_tables(vcpus))
        TRY(memory.write_bytes(table.address, table.bytes));
    return memory.write_bytes(GuestAddress(layout::kResetVector), kResetCode);
}

}  // namespace spore
