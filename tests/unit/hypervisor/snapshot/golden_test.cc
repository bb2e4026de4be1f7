// Snapshots that earlier builds of Spore have written, still to be understood.

#include <gtest/gtest.h>

#include "hypervisor/snapshot/checksums.h"
#include "hypervisor/snapshot/seal.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/state_file.h"

namespace spore {
namespace {

// From the tiny guest of tests/bad_input: one vCPU in a halt loop, 64 MiB, a copy-on-write disk of
// 2 MiB on one raw layer, a vsock device and an entropy device.
TEST(GoldenSnapshot, OfVersion1IsUnderstood) {
    std::string path = std::string(SPORE_SOURCE_ROOT) + "/tests/golden/v1/state.spore";
    auto payload = read_state_file(path);
    ASSERT_TRUE(payload) << payload.error().message;
    auto decoded = decode_state(*payload);
    ASSERT_TRUE(decoded) << decoded.error().message;
    const MachineState& state = *decoded;

    EXPECT_EQ(state.spore_version, "0.1.0");
    EXPECT_EQ(state.cpu_vendor, "AuthenticAMD");
    EXPECT_EQ(state.cpu_template, "host");
    ASSERT_EQ(state.vcpus.size(), 1u);
    EXPECT_EQ(state.vcpus[0].regs.rip, 0x10'0011u);  // behind the hlt
    EXPECT_EQ(state.vcpus[0].regs.rdx, 0x3f8u);
    EXPECT_EQ(state.vcpus[0].regs.rax & 0xff, 0x0au);
    EXPECT_EQ(state.vcpus[0].sregs.cr0 & 1, 1u);
    EXPECT_EQ(state.vcpus[0].sregs.cs.selector, 8);
    EXPECT_EQ(state.vcpus[0].xsave.size(), 4096u);

    ASSERT_EQ(state.memory.extents.size(), 1u);
    EXPECT_EQ(state.memory.extents[0].start.value(), 0u);
    EXPECT_EQ(state.memory.extents[0].size, 64u << 20);
    EXPECT_EQ(state.memory.image.file_bytes, 64u << 20);
    EXPECT_EQ(state.memory.image.chunk_hashes.size(), 32u);

    ASSERT_EQ(state.devices.size(), 3u);
    auto* disk = std::get_if<DiskState>(&state.devices[0].kind);
    ASSERT_NE(disk, nullptr);
    EXPECT_TRUE(disk->layered);
    EXPECT_FALSE(disk->read_only);
    EXPECT_EQ(disk->size_bytes, 2u << 20);
    ASSERT_EQ(disk->layers.size(), 1u);
    EXPECT_TRUE(disk->layers[0].path.ends_with("/base.img"));
    EXPECT_EQ(disk->layers[0].map, "");
    auto* vsock = std::get_if<VsockState>(&state.devices[1].kind);
    ASSERT_NE(vsock, nullptr);
    EXPECT_EQ(vsock->guest_cid, ContextId{3});
    EXPECT_FALSE(vsock->carried) << "version 1 has none";
    EXPECT_TRUE(vsock->ended.empty());
    EXPECT_TRUE(std::holds_alternative<RngState>(state.devices[2].kind));
    for (size_t index = 0; index < state.devices.size(); index++) {
        EXPECT_EQ(state.devices[index].slot, index + 1);
        EXPECT_EQ(state.devices[index].transport.device_status, 0);
    }
    EXPECT_EQ(state.serial.divisor, 1);
}

// Of a template made in the bed from a tuned Linux: one vCPU, 256 MiB, its disk on one raw layer,
// the agent's connection carried.
TEST(GoldenSnapshot, OfVersion2IsUnderstood) {
    std::string path = std::string(SPORE_SOURCE_ROOT) + "/tests/golden/v2/state.spore";
    auto payload = read_state_file(path);
    ASSERT_TRUE(payload) << payload.error().message;
    auto decoded = decode_state(*payload);
    ASSERT_TRUE(decoded) << decoded.error().message;
    const MachineState& state = *decoded;
    ASSERT_EQ(state.vcpus.size(), 1u);
    ASSERT_EQ(state.memory.extents.size(), 1u);
    EXPECT_EQ(state.memory.extents[0].size, 256u << 20);
    EXPECT_EQ(state.memory.image.chunk_hashes.size(), 128u);
    ASSERT_EQ(state.devices.size(), 3u);
    auto* vsock = std::get_if<VsockState>(&state.devices[1].kind);
    ASSERT_NE(vsock, nullptr);
    EXPECT_EQ(vsock->guest_cid, ContextId{3});
    ASSERT_TRUE(vsock->carried);
    EXPECT_EQ(vsock->carried->ports.guest, 1024u);
    EXPECT_EQ(vsock->carried->ports.host + 1, vsock->next_host_port);
    EXPECT_EQ(vsock->carried->credit.guest_buffer_bytes, 256u << 10);
    EXPECT_EQ(vsock->carried->credit.sent, vsock->carried->credit.guest_forwarded);
    EXPECT_GT(vsock->carried->credit.sent, 0u);
    EXPECT_EQ(vsock->carried->credit.received, vsock->carried->credit.forwarded);
    EXPECT_LT(vsock->carried->credit.published, vsock->carried->credit.received);
    EXPECT_TRUE(vsock->carried->credit.announced);
    EXPECT_TRUE(vsock->ended.empty());
    EXPECT_EQ(state.devices[1].transport.device_status, 0xf);

    // What was read says the same when it is written again.
    auto again = decode_state(encode_state(state));
    ASSERT_TRUE(again);
    EXPECT_EQ(*std::get_if<VsockState>(&again->devices[1].kind), *vsock);
}

// Of a template of bench/guest/agent.c: its disk's base beside the state, by its mere name.
TEST(GoldenSnapshot, OfVersion3IsUnderstood) {
    std::string path = std::string(SPORE_SOURCE_ROOT) + "/tests/golden/v3/state.spore";
    auto payload = read_state_file(path);
    ASSERT_TRUE(payload) << payload.error().message;
    auto state = decode_state(*payload);
    ASSERT_TRUE(state) << state.error().message;
    EXPECT_EQ(state->memory.image.file_bytes, 64u << 20);
    auto* disk = std::get_if<DiskState>(&state->devices[0].kind);
    ASSERT_NE(disk, nullptr);
    EXPECT_EQ(disk->layers, (std::vector<DiskState::Layer>{{"base.img", ""}}));
}

// The same template's. Its seal is that of files that are nowhere any more.
TEST(GoldenTemplate, ChecksumsAndSealOfVersion1AreUnderstood) {
    std::filesystem::path directory = std::string(SPORE_SOURCE_ROOT) + "/tests/golden/template-2";
    auto checksums = read_checksums(directory);
    ASSERT_TRUE(checksums) << checksums.error().message;
    std::vector<std::string> names;
    for (const FileChecksums& file : *checksums)
        names.push_back(file.name);
    EXPECT_EQ(names, (std::vector<std::string>{"base.img", "disk-0.img", "disk-0.map", "memory.img",
                                               "state.spore", "template.json"}));
    EXPECT_EQ((*checksums)[3].bytes, 64u << 20);
    EXPECT_EQ((*checksums)[3].chunk_hashes.size(), 32u);
    EXPECT_TRUE(compare_file(directory, (*checksums)[5], {}));
    EXPECT_TRUE(compare_file(directory.parent_path() / "v3", (*checksums)[4], {}));

    auto seal = Seal::read(directory);
    ASSERT_TRUE(seal) << seal.error().message;
    ASSERT_EQ(seal->files().size(), 3u);
    EXPECT_EQ(seal->files()[0].name, "base.img");
    EXPECT_EQ(seal->files()[0].changed_ns, 0) << "it had a second link";
    EXPECT_EQ(seal->files()[2].name, "memory.img");
    EXPECT_EQ(seal->files()[2].bytes, 64u << 20);
    EXPECT_NE(seal->files()[2].changed_ns, 0);
    EXPECT_FALSE(seal->has_verity());
}

}  // namespace
}  // namespace spore
