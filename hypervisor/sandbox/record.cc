#include "hypervisor/sandbox/record.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "hypervisor/sandbox/network_json.h"

namespace spore {

namespace {

constexpr int kRecordFormat = 1;
constexpr size_t kRecordBytesMax = 4 << 20;  // labels and environment are the user's

nlohmann::json to_json(const Quotas& quotas) {
    auto rate = [](const Rate& one) { return nlohmann::json{one.per_second, one.burst}; };
    return {{"cpu_max_millis", quotas.cpu_max_millis},
            {"cpu_weight", quotas.cpu_weight},
            {"memory_max", quotas.memory_max},
            {"pids_max", quotas.pids_max},
            {"disk_max", quotas.disk_max},
            {"io", {rate(quotas.io.bytes), rate(quotas.io.operations)}},
            {"net", {rate(quotas.net.bytes), rate(quotas.net.operations)}}};
}

Quotas parse_quotas(const nlohmann::json& document) {
    auto rates = [&](const char* field) {
        auto rate = [&](size_t which) {
            const auto& pair = document.at(field).at(which);
            return Rate{pair.at(0).get<uint64_t>(), pair.at(1).get<uint64_t>()};
        };
        return RateLimits{rate(0), rate(1)};
    };
    Quotas quotas;
    quotas.cpu_max_millis = document.at("cpu_max_millis").get<uint32_t>();
    quotas.cpu_weight = document.at("cpu_weight").get<uint32_t>();
    quotas.memory_max = document.at("memory_max").get<uint64_t>();
    quotas.pids_max = document.at("pids_max").get<uint32_t>();
    quotas.disk_max = document.value("disk_max", uint64_t{0});
    quotas.io = rates("io");
    quotas.net = rates("net");
    return quotas;
}

// Fields of the right type, or an exception: nlohmann's only way to say so.
SandboxRecord parse_record(const nlohmann::json& document) {
    SandboxRecord record;
    record.id = document.at("id").get<std::string>();
    record.template_name = document.at("template").get<std::string>();
    record.created_unix_ms = document.at("created_unix_ms").get<int64_t>();
    record.process.pid = document.at("pid").get<int>();
    record.process.start_ticks = document.at("pid_start_ticks").get<uint64_t>();
    record.labels = document.at("labels").get<std::map<std::string, std::string>>();
    record.environment = document.at("environment").get<std::map<std::string, std::string>>();
    record.owner = document.at("owner").get<std::string>();
    if (document.contains("network"))
        record.network = words_of(document["network"]);
    if (document.contains("quotas"))
        record.quotas = parse_quotas(document["quotas"]);
    return record;
}

Status write_whole(const std::filesystem::path& path, const std::string& text) {
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file)
        return fail_errno(path.string());
    for (size_t done = 0; done < text.size();) {
        ssize_t written = ::write(file.get(), text.data() + done, text.size() - done);
        if (written < 0)
            return fail_errno(path.string());
        done += static_cast<size_t>(written);
    }
    return {};
}

}  // namespace

Status save_record(const std::filesystem::path& directory, const SandboxRecord& record) {
    nlohmann::json document = {{"format", kRecordFormat},
                               {"id", record.id},
                               {"template", record.template_name},
                               {"created_unix_ms", record.created_unix_ms},
                               {"pid", record.process.pid},
                               {"pid_start_ticks", record.process.start_ticks},
                               {"labels", record.labels},
                               {"environment", record.environment},
                               {"owner", record.owner}};
    if (record.network)
        document["network"] = to_json(*record.network);
    if (record.quotas != Quotas{})  // most have none, and each create writes this
        document["quotas"] = to_json(record.quotas);
    std::filesystem::path beside = directory / (std::string(kRecordFile) + ".new");
    std::string text = document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    TRY(write_whole(beside, text + "\n"));
    if (::rename(beside.c_str(), (directory / kRecordFile).c_str()) != 0)
        return fail_errno(beside.string());
    return {};
}

Result<std::optional<SandboxRecord>> load_record(const std::filesystem::path& directory) {
    std::filesystem::path path = directory / kRecordFile;
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file && (errno == ENOENT || errno == ENOTDIR))
        return std::optional<SandboxRecord>();
    if (!file)
        return fail_errno(path.string());
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0)
        return fail_errno(path.string());
    auto corrupt = [&](const std::string& what) {
        return fail(Code::corrupt, path.string() + ": " + what);
    };
    if (!S_ISREG(status.st_mode) || static_cast<uint64_t>(status.st_size) > kRecordBytesMax)
        return corrupt("not a file of at most " + std::to_string(kRecordBytesMax) + " bytes");
    std::string text(static_cast<size_t>(status.st_size), '\0');
    ssize_t got = ::pread(file.get(), text.data(), text.size(), 0);
    if (got < 0)
        return fail_errno(path.string());
    text.resize(static_cast<size_t>(got));
    auto document = nlohmann::json::parse(text, nullptr, false);
    if (!document.is_object())
        return corrupt("is not a JSON object");
    try {
        if (int format = document.at("format").get<int>(); format != kRecordFormat)
            return fail(Code::version_mismatch,
                        path.string() + ": format " + std::to_string(format) +
                            ", this Spore reads format " + std::to_string(kRecordFormat));
        return std::optional(parse_record(document));
    } catch (const nlohmann::json::exception& error) {
        return corrupt(error.what());
    }
}

std::optional<DirectoryLock> DirectoryLock::take(const std::filesystem::path& directory) {
    UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
        return std::nullopt;
    return DirectoryLock(std::move(fd));
}

// Closing is not enough: a process that another thread is just starting has the descriptor too, for
// the moment before it executes its program.
DirectoryLock::~DirectoryLock() {
    if (fd_)
        ::flock(fd_.get(), LOCK_UN);
}

bool DirectoryLock::holds(const std::filesystem::path& directory) const {
    struct stat locked = {}, named = {};
    return ::fstat(fd_.get(), &locked) == 0 && ::stat(directory.c_str(), &named) == 0 &&
           locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

}  // namespace spore
