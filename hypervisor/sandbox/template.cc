#include "hypervisor/sandbox/template.h"

#include <algorithm>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/end_on_stop.h"
#include "hypervisor/sandbox/guest.h"
#include "hypervisor/sandbox/network_json.h"
#include "hypervisor/sandbox/pool.h"
#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/template_files.h"
#include "hypervisor/sandbox/template_lock.h"
#include "hypervisor/sandbox/template_owner.h"
#include "hypervisor/sandbox/template_remains.h"
#include "hypervisor/sandbox/trial_clone.h"
#include "hypervisor/sandbox/vmm_client.h"
#include "hypervisor/sandbox/vmm_process.h"

namespace spore {

namespace stdfs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

// 1 named the image's disk instead of having a base of its own; it is not read any more, since what
// its disk's layers begin with may have been replaced.
constexpr int kTemplateFormat = 2;
// The disk's top while the template boots; its content is in the snapshot afterwards.
constexpr const char* kBuildDisk = "disk.building";

struct BootFiles {
    stdfs::path kernel;
    stdfs::path initramfs;
};

Result<BootFiles> boot_files(const Image& image, const std::string& kernel) {
    if (kernel.find('/') == std::string::npos) {
        auto named = TRY(find_kernel(image, kernel));
        return BootFiles{named.kernel, named.initramfs};
    }
    // A kernel of the user's own goes with the initramfs that loads no modules it may not match.
    auto tuned = find_kernel(image, "tuned");
    auto other = tuned ? tuned : find_kernel(image, "stock");
    return BootFiles{kernel, TRY(std::move(other)).initramfs};
}

std::vector<std::string> vmm_arguments(const TemplateSpec& spec, uint64_t disk_bytes,
                                       const BootFiles& files, const TemplateDraft& draft) {
    return {"--kernel",
            files.kernel.string(),
            "--initrd",
            files.initramfs.string(),
            "--cmdline",
            "console=ttyS0 quiet loglevel=4 panic=-1 reboot=a,f "
            "random.trust_cpu=on spore.root=vda",
            "--memory",
            std::to_string(spec.memory_bytes),
            "--cpus",
            std::to_string(spec.cpus),
            "--cpu-template",
            spec.cpu_template,
            "--disk",
            (draft.directory() / kBuildDisk).string() + ",layer=" +
                (draft.directory() / kBaseFile).string() + ",size=" + std::to_string(disk_bytes),
            "--vsock",
            kVsockName,
            "--control",
            kControlName,
            "--serial",
            "file:" + (draft.directory() / "console.log").string()};
}

// Of a template with a card while its commands run; each clone gets one of its own.
AgentIdentity preparing_identity() {
    AgentIdentity identity;
    identity.hostname = "template";
    identity.machine_id = std::string(32, '0');
    identity.network = card_settings();
    return identity;
}

// The last lines of a text file, for an error's sake.
std::string tail_of(const stdfs::path& path) {
    std::ifstream file(path);
    std::string line, last;
    while (std::getline(file, line)) {
        if (!line.empty())
            last = line;
    }
    return last.substr(0, 200);
}

Clock::time_point within(const TemplateSpec& spec, std::chrono::seconds limit) {
    return std::min(Clock::now() + limit, spec.deadline);
}

Status run_prepare(AgentClient& agent, const TemplateSpec& spec, const Progress& progress) {
    for (const std::string& command : spec.prepare) {
        progress("preparing: " + command);
        ExecRequest request;
        request.argv = {"/bin/sh", "-c", command};
        std::string last;
        ExecStreams streams;
        auto keep = [&](std::span<const std::byte> bytes) -> Status {
            last.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
            if (last.size() > 4096)
                last.erase(0, last.size() - 4096);
            return Status();
        };
        streams.on_stdout = keep;
        streams.on_stderr = keep;
        auto result = TRY(agent.exec(request, streams, within(spec, spec.prepare_limit)));
        if (result.exit_status == 0)
            continue;
        std::string why = result.end == ExecResult::End::signaled
                              ? "ended by signal " + std::to_string(result.signal)
                              : "exit status " + std::to_string(result.exit_status);
        size_t cut = last.size() > 400 ? last.size() - 400 : 0;
        return fail(Code::unavailable, "prepare '" + command + "': " + why +
                                           (last.empty() ? "" : ": " + last.substr(cut)));
    }
    return {};
}

// Of the document without this field, as dump() writes it: a flipped bit is no other template.
constexpr const char* kChecksum = "xxh3_64";

std::string checksum_of(json document) {
    document.erase(kChecksum);
    std::string text = document.dump();
    char digits[17];
    std::snprintf(digits, sizeof(digits), "%016llx",
                  static_cast<unsigned long long>(XXH3_64bits(text.data(), text.size())));
    return digits;
}

json to_json(const TemplateInfo& info) {
    json document = {{"format", kTemplateFormat},
                     {"name", info.name},
                     {"image", info.image},
                     {"kernel", info.kernel},
                     {"created", info.created},
                     {"cpu_template", info.cpu_template},
                     {"agent_version", info.agent_version},
                     {"memory_bytes", info.memory_bytes},
                     {"cpus", info.cpus},
                     {"disk_bytes", info.disk_bytes},
                     {"prepare", info.prepare},
                     {"owner", info.owner},
                     {"public", info.is_public}};
    if (info.agent)
        document["agent"] = {{"protocol", info.agent->protocol},
                             {"last_stream", info.agent->last_stream}};
    if (info.network)
        document["network"] = to_json(*info.network);
    document[kChecksum] = checksum_of(document);
    return document;
}

Status write_text(const stdfs::path& path, const std::string& text) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << text;
    file.close();
    if (!file)
        return fail(Code::resource_exhausted, path.string() + ": could not be written");
    return {};
}

}  // namespace

std::string timestamp_now() {
    std::time_t now = std::time(nullptr);
    std::tm parts = {};
    ::gmtime_r(&now, &parts);
    char text[32];
    std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

namespace {

Result<TemplateInfo> make_template(const Home& home, const TemplateSpec& spec,
                                   const Progress& progress, EndOnStop& stop) {
    TRY(check_name("template", spec.name));
    if (stdfs::exists(home.templates() / spec.name))
        return fail(Code::already_exists, "template '" + spec.name + "': exists already");
    auto image = TRY(load_image(home, spec.image));
    auto files = TRY(boot_files(image, spec.kernel));
    auto policy = TRY(complete_policy(spec.network));
    auto program = TRY(Home::program("spore-vmm"));
    auto draft = TRY(TemplateDraft::begin(home, spec.name));
    TRY(draft.take_base(image.rootfs, progress));
    TRY(stop.check());
    std::error_code error;
    uint64_t base_bytes = stdfs::file_size(draft.directory() / kBaseFile, error);
    if (error)
        return fail_errno((draft.directory() / kBaseFile).string(), error.value());
    uint64_t disk_bytes = std::max(spec.disk_bytes, base_bytes);

    progress("booting " + spec.kernel + " kernel");
    auto boot_deadline = within(spec, spec.boot_limit);
    auto arguments = vmm_arguments(spec, disk_bytes, files, draft);
    UniqueFd tap;
    if (policy.mode != NetworkMode::none) {
        tap = TRY(make_card_network(draft.directory(), policy));
        std::ranges::copy(card_arguments(true), std::back_inserter(arguments));
    }
    draft.vmm = TRY(start_vmm(program, arguments, draft.run(), draft.directory() / "vmm.log",
                              boot_deadline, tap.get()));
    stop.watch(draft.vmm);
    auto connected = connect_agent(draft.run(), boot_deadline);
    if (!connected)
        return std::unexpected(
            Error{connected.error().code,
                  "template '" + spec.name + "': booting: " + connected.error().message +
                      "; console: " + tail_of(draft.directory() / "console.log")});
    AgentClient agent = std::move(*connected);
    progress("growing the root file system");
    TRY(agent.grow_root(boot_deadline));
    if (tap) {
        progress("configuring its network");
        TRY(agent.identify(preparing_identity(), boot_deadline));
        TRY(follow_policy(draft.directory(), policy, spec.network, draft.vmm));
    }
    TRY(run_prepare(agent, spec, progress));

    progress("snapshotting");
    auto deadline = within(spec, std::chrono::seconds(300));
    // Reads from the disk, once for all clones, what every command reads: the C library. Each would
    // have it in memory of its own.
    TRY(run_least_command(agent, deadline));
    TRY(agent.prepare_snapshot(deadline));
    auto control = TRY(VmmClient::connect(draft.run()));
    TRY(control.snapshot(draft.directory(), {agent.host_port(), kAgentPort}, deadline));
    TRY(control.quit(deadline));
    TRY(stop.release());
    TRY(kill_process(draft.vmm, deadline));
    TRY(remove_tree(draft.directory() / kBuildDisk));

    TemplateInfo info;
    info.name = spec.name;
    info.image = spec.image;
    info.kernel = spec.kernel;
    info.created = timestamp_now();
    info.cpu_template = spec.cpu_template;
    info.agent_version = agent.info().version;
    info.memory_bytes = spec.memory_bytes;
    info.cpus = spec.cpus;
    info.disk_bytes = disk_bytes;
    info.prepare = spec.prepare;
    info.owner = spec.owner;
    info.is_public = spec.owner.empty() || spec.is_public;
    if (tap)
        info.network = spec.network;
    info.agent = agent.carry();
    progress("trying a clone");
    info.directory = draft.directory();
    info.base = draft.directory() / kBaseFile;
    TRY(record_working_set(info, draft.run(), stop, deadline, tap.get()));
    tap.reset();
    TRY(remove_card_network(draft.directory()));
    TRY(write_text(draft.directory() / "template.json", to_json(info).dump(2) + "\n"));
    if (!info.is_public)
        TRY(set_template_owner(draft.directory(), info.owner));
    TRY(stop.check());
    TRY(draft.publish(home, spec.name, progress));
    return load_template(home, spec.name);
}

}  // namespace

Result<TemplateInfo> create_template(const Home& home, const TemplateSpec& spec,
                                     const Progress& progress) {
    EndOnStop stop(spec.stop);
    auto made = make_template(home, spec, progress, stop);
    // What a wait said whose VM was ended is no news.
    if (const Status went_on = stop.check(); !made && !went_on)
        return std::unexpected(Error(went_on.error()).within("template '" + spec.name + "'"));
    return made;
}

Result<TemplateInfo> load_template(const Home& home, const std::string& name) {
    TRY(check_name("template", name));
    stdfs::path directory = home.templates() / name;
    std::ifstream file(directory / "template.json");
    if (!file)
        return fail(Code::not_found,
                    "template '" + name + "': there is none in " + home.templates().string());
    json document = json::parse(file, nullptr, false);
    auto corrupt = [&](const std::string& what) {
        return fail(Code::corrupt, (directory / "template.json").string() + ": " + what);
    };
    if (!document.is_object())
        return corrupt("is not a JSON object");
    if (!document.contains("format") || !document["format"].is_number_integer())
        return corrupt("has no format version");
    int format = document["format"].get<int>();
    if (format != kTemplateFormat)
        return fail(Code::version_mismatch, "template '" + name + "': format " +
                                                std::to_string(format) + ", this Spore reads " +
                                                std::to_string(kTemplateFormat));
    if (!document.contains(kChecksum) || document[kChecksum] != checksum_of(document))
        return corrupt("checksum does not match");
    TemplateInfo info;
    try {  // nlohmann's only way to say that a field is of another type
        info.image = document.at("image").get<std::string>();
        info.kernel = document.at("kernel").get<std::string>();
        info.created = document.at("created").get<std::string>();
        info.cpu_template = document.at("cpu_template").get<std::string>();
        info.agent_version = document.at("agent_version").get<std::string>();
        info.memory_bytes = document.at("memory_bytes").get<uint64_t>();
        info.cpus = document.at("cpus").get<uint32_t>();
        info.disk_bytes = document.at("disk_bytes").get<uint64_t>();
        info.prepare = document.at("prepare").get<std::vector<std::string>>();
        if (document.contains("network"))
            info.network = words_of(document["network"]);
        info.owner = document.value("owner", "");
        info.is_public = document.value("public", true);
        if (document.contains("agent"))
            info.agent = {document["agent"].at("protocol").get<uint16_t>(), info.agent_version,
                          document["agent"].at("last_stream").get<uint32_t>()};
    } catch (const json::exception& error) {
        return corrupt(error.what());
    }
    info.name = name;
    info.directory = directory;
    info.base = directory / kBaseFile;
    info.sealed = true;
    info.memory_image_bytes = allocated_bytes(directory / "memory.img");
    info.disk_layer_bytes = allocated_bytes(directory / "disk-0.img");
    return info;
}

Result<std::vector<TemplateInfo>> list_templates(const Home& home) {
    TRY(clear_template_remains(home));
    std::vector<TemplateInfo> templates;
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(home.templates(), error)) {
        if (!check_name("template", entry.path().filename().string()))
            continue;  // one in the making
        if (auto info = load_template(home, entry.path().filename()))
            templates.push_back(std::move(*info));
    }
    if (error)
        return fail_errno(home.templates().string(), error.value());
    std::ranges::sort(templates, {}, &TemplateInfo::name);
    return templates;
}

namespace {

// Whether no sandbox is a clone of it, and none waits to be one.
Status check_unused(const Home& home, const std::string& name) {
    if (has_pool(home, name))
        return fail(Code::unavailable, "template '" + name + "': clones of it wait in its pool; " +
                                           "spore pool stop " + name + " first");
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(home.sandboxes(), error)) {
        auto record = TRY(load_record(entry.path()));
        if (record && record->template_name == name)
            return fail(Code::unavailable, "template '" + name + "': sandbox '" + record->id +
                                               "' is a clone of it; destroy that first");
    }
    return {};
}

}  // namespace

Status remove_template(const Home& home, const std::string& name) {
    TRY(check_name("template", name));
    TRY(clear_template_remains(home));
    stdfs::path directory = home.templates() / name;
    if (!stdfs::exists(directory / "template.json"))
        return fail(Code::not_found,
                    "template '" + name + "': there is none in " + home.templates().string());
    TRY(check_unused(home, name));
    auto lock = TRY(TemplateLock::own(home, name));
    TRY(check_unused(home, name));  // made meanwhile
    // Out of sight in one step: nobody can start from half of it.
    stdfs::path doomed =
        home.templates() / (kRemovingTemplate + name + TRY(random_name()).substr(2));
    if (::rename(directory.c_str(), doomed.c_str()) != 0)
        return fail_errno(directory.string());
    return remove_tree(doomed);
}

}  // namespace spore
