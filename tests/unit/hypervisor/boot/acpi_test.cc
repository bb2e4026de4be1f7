#include "hypervisor/boot/acpi.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "hypervisor/boot/aml.h"
#include "hypervisor/boot/layout.h"
#include "tests/unit/support/scratch_directory.h"

namespace spore {
namespace {

uint8_t sum(std::span<const std::byte> bytes) {
    uint8_t total = 0;
    for (std::byte byte : bytes)
        total = static_cast<uint8_t>(total + static_cast<uint8_t>(byte));
    return total;
}

template <typename T>
T at(const AcpiTable& table, size_t offset) {
    T value;
    EXPECT_LE(offset + sizeof(T), table.bytes.size());
    std::memcpy(&value, table.bytes.data() + offset, sizeof(T));
    return value;
}

const AcpiTable& find(const std::vector<AcpiTable>& tables, std::string_view signature) {
    for (const AcpiTable& table : tables) {
        if (table.signature == signature)
            return table;
    }
    throw std::out_of_range(std::string(signature));
}

TEST(Acpi, TablesHaveTheirChecksumsAndLengthsAndDoNotOverlap) {
    for (uint32_t vcpus : {1u, 4u, limits::kVcpusMax}) {
        auto tables = make_acpi_tables(vcpus);
        ASSERT_EQ(tables.size(), 6u);
        for (size_t index = 0; index < tables.size(); index++) {
            const AcpiTable& table = tables[index];
            EXPECT_EQ(sum(table.bytes), 0) << table.signature;
            EXPECT_EQ(
                std::memcmp(table.bytes.data(), table.signature.data(), table.signature.size()), 0);
            uint64_t end = table.address.value() + table.bytes.size();
            EXPECT_LE(end, layout::kFirmwareEnd);
            if (index + 1 < tables.size()) {
                EXPECT_LE(end, tables[index + 1].address.value());
            }
            if (index > 0) {
                EXPECT_EQ(at<uint32_t>(table, 4), table.bytes.size());
            }
        }
        EXPECT_EQ(tables[0].address.value(), layout::kRsdp);
        EXPECT_EQ(sum(std::span(tables[0].bytes).first(20)), 0) << "the RSDP's first checksum";
    }
}

TEST(Acpi, RsdpLeadsToEveryTable) {
    auto tables = make_acpi_tables(2);
    const AcpiTable& xsdt = find(tables, "XSDT");
    EXPECT_EQ(at<uint64_t>(tables[0], 24), xsdt.address.value());
    EXPECT_EQ(at<uint64_t>(xsdt, 36), find(tables, "FACP").address.value());
    EXPECT_EQ(at<uint64_t>(xsdt, 44), find(tables, "APIC").address.value());
    EXPECT_EQ(at<uint64_t>(xsdt, 52), find(tables, "MCFG").address.value());
    EXPECT_EQ(at<uint64_t>(find(tables, "FACP"), 140), find(tables, "DSDT").address.value());
}

TEST(Acpi, SaysThatTheHardwareIsReduced) {
    auto tables = make_acpi_tables(1);
    const AcpiTable& fadt = find(tables, "FACP");
    EXPECT_EQ(fadt.bytes.size(), 276u);
    uint32_t flags = at<uint32_t>(fadt, 112);
    EXPECT_TRUE(flags & 1 << 20) << "hardware-reduced";
    EXPECT_TRUE(flags & 1 << 10) << "reset register";
    uint16_t architecture = at<uint16_t>(fadt, 109);
    EXPECT_EQ(architecture & 0b101110, 0b100100) << "no VGA, no CMOS clock; no 8042; MSI works";
    EXPECT_EQ(at<uint8_t>(fadt, 116), 1) << "reset register in I/O space";
    EXPECT_EQ(at<uint64_t>(fadt, 120), layout::kResetPort);
    EXPECT_EQ(at<uint64_t>(fadt, 248), layout::kSleepControlPort);
    EXPECT_EQ(at<uint64_t>(fadt, 260), layout::kSleepStatusPort);
}

TEST(Acpi, ListsOneLocalApicForEveryVcpu) {
    for (uint32_t vcpus = 1; vcpus <= limits::kVcpusMax; vcpus++) {
        auto tables = make_acpi_tables(vcpus);
        const AcpiTable& madt = find(tables, "APIC");
        ASSERT_EQ(madt.bytes.size(), 44 + 8 * vcpus);
        for (uint32_t vcpu = 0; vcpu < vcpus; vcpu++) {
            EXPECT_EQ(at<uint16_t>(madt, 44 + 8 * vcpu), 0x0800);
            EXPECT_EQ(at<uint8_t>(madt, 44 + 8 * vcpu + 3), vcpu);
            EXPECT_EQ(at<uint32_t>(madt, 44 + 8 * vcpu + 4), 1u);
        }
    }
}

TEST(Acpi, WritesTheTablesWhereTheirPointersSay) {
    auto memory = *GuestMemory::allocate(memory_extents(limits::kMemoryBytesMin));
    ASSERT_TRUE(write_acpi_tables(memory, 3).has_value());
    for (const AcpiTable& table : make_acpi_tables(3)) {
        std::vector<std::byte> bytes(table.bytes.size());
        ASSERT_TRUE(memory.read_bytes(table.address, bytes).has_value());
        EXPECT_EQ(bytes, table.bytes);
    }
}

TEST(Acpi, PutsAWayToResetWhereABiosHasItsEntry) {
    auto memory = *GuestMemory::allocate(memory_extents(limits::kMemoryBytesMin));
    ASSERT_TRUE(write_acpi_tables(memory, 1).has_value());
    std::array<std::byte, 6> code = {};
    ASSERT_TRUE(memory.read_bytes(GuestAddress(0xFFFF0), code).has_value());
    // mov dx, 0x602; mov al, 1; out dx, al
    EXPECT_EQ(code,
              (std::to_array<std::byte>({std::byte{0xba}, std::byte{0x02}, std::byte{0x06},
                                         std::byte{0xb0}, std::byte{0x01}, std::byte{0xee}})));
}

TEST(Aml, EncodesPackageLengthsOfOneToThreeBytes) {
    auto length_bytes = [](size_t content) {
        aml::Bytes terms(content);
        return aml::scope("X", terms).size() - 1 - 4 - content;
    };
    EXPECT_EQ(length_bytes(58), 1u);  // 58 + 4 of the name + 1 = 63
    EXPECT_EQ(length_bytes(59), 2u);
    EXPECT_EQ(length_bytes(4089), 2u);
    EXPECT_EQ(length_bytes(4090), 3u);
    auto scope = aml::scope("X", aml::Bytes(59));
    EXPECT_EQ(scope[1], std::byte{0x40 | (65 & 0xF)});
    EXPECT_EQ(scope[2], std::byte{65 >> 4});
}

TEST(Aml, EncodesEisaIds) {
    auto id = aml::eisa_id("PNP0A08");
    const uint8_t expected[] = {0x0C, 0x41, 0xD0, 0x0A, 0x08};
    ASSERT_EQ(id.size(), 5u);
    EXPECT_EQ(std::memcmp(id.data(), expected, 5), 0);
}

// ACPICA's disassembler, which knows the formats from their specification and not from us.
class Disassembled : public testing::Test {
  protected:
    void SetUp() override {
        if (::system("command -v iasl >/dev/null") != 0)
            GTEST_SKIP() << "iasl (Debian: acpica-tools) is not installed";
    }
    std::string disassemble(const AcpiTable& table) {
        std::string path = directory + "/" + table.signature;
        std::ofstream(path + ".dat", std::ios::binary)
            .write(reinterpret_cast<const char*>(table.bytes.data()),
                   static_cast<std::streamsize>(table.bytes.size()));
        std::string command =
            "cd " + directory + " && iasl -d " + path + ".dat >" + path + ".log 2>&1";
        EXPECT_EQ(::system(command.c_str()), 0) << slurp(path + ".log");
        log = slurp(path + ".log");
        return slurp(path + ".dsl");
    }
    static std::string slurp(const std::string& path) {
        std::ostringstream text;
        text << std::ifstream(path).rdbuf();
        return text.str();
    }

    const ScratchDirectory scratch{"acpi"};
    const std::string directory = scratch.path();
    std::string log;
};

TEST_F(Disassembled, DsdtReadsAsItWasMeantAndCompilesAgain) {
    auto tables = make_acpi_tables(1);
    std::string source = disassemble(find(tables, "DSDT"));
    for (const char* part :
         {"Name (\\_S5, Package (0x04)", "Scope (\\_SB)", "Device (PCI0)", "EisaId (\"PNP0A08\")",
          "EisaId (\"PNP0A03\")", "EisaId (\"PNP0C02\")", "EisaId (\"PNP0501\")",
          "WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode",
          "DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite",
          "0xD0000000,         // Range Minimum", "0xDFFFFFFF,         // Range Maximum",
          "0xE0000000,         // Address Base", "0x03F8,             // Range Minimum"})
        EXPECT_NE(source.find(part), std::string::npos) << part << " in:\n" << source;
    EXPECT_EQ(source.find("Incorrect checksum"), std::string::npos);
    std::string command = "iasl -ve " + directory + "/DSDT.dsl >" + directory + "/compile.log 2>&1";
    EXPECT_EQ(::system(command.c_str()), 0) << slurp(directory + "/compile.log");
}

TEST_F(Disassembled, DataTablesAreWellFormed) {
    for (const AcpiTable& table : make_acpi_tables(limits::kVcpusMax)) {
        if (table.signature == "RSD PTR " || table.signature == "DSDT")
            continue;
        std::string text = disassemble(table);
        EXPECT_NE(text.find("\"" + table.signature + "\""), std::string::npos) << text;
        for (const char* complaint : {"Incorrect checksum", "Invalid", "/**** "})
            EXPECT_EQ(text.find(complaint), std::string::npos) << text;
        for (const char* complaint : {"rror", "arning"})
            EXPECT_EQ(log.find(complaint), std::string::npos) << log;
    }
}

}  // namespace
}  // namespace spore
