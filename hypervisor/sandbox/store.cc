#include "hypervisor/sandbox/store.h"

#include <sqlite3.h>

#include <memory>
#include <nlohmann/json.hpp>

namespace spore {

namespace {

constexpr int kSchemaVersion = 1;
constexpr const char* kSchema = R"(
    CREATE TABLE IF NOT EXISTS sandboxes (
        id TEXT PRIMARY KEY,
        template TEXT NOT NULL,
        state INTEGER NOT NULL,
        created_unix_ms INTEGER NOT NULL,
        pid INTEGER NOT NULL,
        pid_start_ticks INTEGER NOT NULL,
        labels TEXT NOT NULL,
        environment TEXT NOT NULL,
        owner TEXT NOT NULL
    ) STRICT;
)";
constexpr const char* kColumns =
    "id, template, state, created_unix_ms, pid, pid_start_ticks, labels, environment, owner";

using Statement = std::unique_ptr<sqlite3_stmt, decltype(&sqlite3_finalize)>;

std::unexpected<Error> database_error(sqlite3* database, int result) {
    Code code = result == SQLITE_NOTADB || result == SQLITE_CORRUPT ? Code::corrupt
                : result == SQLITE_FULL                             ? Code::resource_exhausted
                                                                    : Code::internal;
    return fail(code, std::string("store: ") + sqlite3_errmsg(database));
}

Status execute(sqlite3* database, const char* sql) {
    int result = sqlite3_exec(database, sql, nullptr, nullptr, nullptr);
    if (result != SQLITE_OK)
        return database_error(database, result);
    return {};
}

Result<Statement> prepare(sqlite3* database, const std::string& sql) {
    sqlite3_stmt* statement = nullptr;
    int result = sqlite3_prepare_v2(database, sql.c_str(), -1, &statement, nullptr);
    if (result != SQLITE_OK)
        return database_error(database, result);
    return Statement(statement, &sqlite3_finalize);
}

void bind_text(sqlite3_stmt* statement, int index, const std::string& text) {
    sqlite3_bind_text(statement, index, text.data(), static_cast<int>(text.size()),
                      SQLITE_TRANSIENT);
}

void bind_record(sqlite3_stmt* statement, const SandboxRecord& record) {
    bind_text(statement, 1, record.id);
    bind_text(statement, 2, record.template_name);
    sqlite3_bind_int(statement, 3, static_cast<int>(record.state));
    sqlite3_bind_int64(statement, 4, record.created_unix_ms);
    sqlite3_bind_int(statement, 5, record.pid);
    sqlite3_bind_int64(statement, 6, static_cast<int64_t>(record.pid_start_ticks));
    bind_text(statement, 7, nlohmann::json(record.labels).dump());
    bind_text(statement, 8, nlohmann::json(record.environment).dump());
    bind_text(statement, 9, record.owner);
}

std::string column_text(sqlite3_stmt* statement, int column) {
    const unsigned char* text = sqlite3_column_text(statement, column);
    return text == nullptr ? "" : reinterpret_cast<const char*>(text);
}

std::map<std::string, std::string> column_map(sqlite3_stmt* statement, int column) {
    auto json = nlohmann::json::parse(column_text(statement, column), nullptr, false);
    std::map<std::string, std::string> map;
    if (json.is_object()) {
        for (auto& [key, value] : json.items()) {
            if (value.is_string())
                map[key] = value.get<std::string>();
        }
    }
    return map;
}

SandboxRecord read_record(sqlite3_stmt* statement) {
    SandboxRecord record;
    record.id = column_text(statement, 0);
    record.template_name = column_text(statement, 1);
    int state = sqlite3_column_int(statement, 2);
    record.state = state == 1   ? SandboxState::running
                   : state == 2 ? SandboxState::destroying
                                : SandboxState::creating;
    record.created_unix_ms = sqlite3_column_int64(statement, 3);
    record.pid = sqlite3_column_int(statement, 4);
    record.pid_start_ticks = static_cast<uint64_t>(sqlite3_column_int64(statement, 5));
    record.labels = column_map(statement, 6);
    record.environment = column_map(statement, 7);
    record.owner = column_text(statement, 8);
    return record;
}

// Steps a statement that returns no row.
Status run(sqlite3* database, const Statement& statement) {
    int result = sqlite3_step(statement.get());
    if (result != SQLITE_DONE)
        return database_error(database, result);
    return {};
}

}  // namespace

std::string_view state_name(SandboxState state) {
    switch (state) {
        case SandboxState::creating:
            return "creating";
        case SandboxState::running:
            return "running";
        case SandboxState::destroying:
            return "destroying";
    }
    return "unknown";
}

Result<Store> Store::open(const std::filesystem::path& path) {
    sqlite3* raw = nullptr;
    int result =
        sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
    Store store(raw);
    if (result != SQLITE_OK)
        return std::unexpected(database_error(raw, result).error().within(path.string()));
    sqlite3_busy_timeout(raw, 20'000);
    // WAL: readers do not wait for writers. Changing to it fails at once, whatever the busy
    // timeout, while another opens or closes the store: try again. NORMAL: a power cut may lose the
    // last changes, and with them go the sandboxes themselves.
    const char* modes = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;";
    for (int attempt = 1; sqlite3_exec(raw, modes, nullptr, nullptr, nullptr) != SQLITE_OK;
         attempt++) {
        int code = sqlite3_errcode(raw);
        if (code != SQLITE_BUSY || attempt == 500)
            return database_error(raw, code);
        sqlite3_sleep(20);
    }
    auto version = TRY(prepare(raw, "PRAGMA user_version"));
    if (sqlite3_step(version.get()) != SQLITE_ROW)
        return database_error(raw, SQLITE_CORRUPT);
    int found = sqlite3_column_int(version.get(), 0);
    version.reset();
    if (found > kSchemaVersion)
        return fail(Code::version_mismatch, path.string() + ": written by a newer Spore (version " +
                                                std::to_string(found) + ", this one knows " +
                                                std::to_string(kSchemaVersion) + ")");
    if (found < kSchemaVersion) {
        // Whoever else is making it at this moment makes the same.
        std::string make = std::string("BEGIN IMMEDIATE;") + kSchema +
                           "PRAGMA user_version = " + std::to_string(kSchemaVersion) + "; COMMIT;";
        TRY(execute(raw, make.c_str()));
    }
    return store;
}

Store::Store(Store&& other) noexcept : database_(std::exchange(other.database_, nullptr)) {}

Store& Store::operator=(Store&& other) noexcept {
    std::swap(database_, other.database_);
    return *this;
}

Store::~Store() {
    sqlite3_close(database_);
}

Status Store::add(const SandboxRecord& record) {
    auto statement = TRY(prepare(database_, std::string("INSERT INTO sandboxes (") + kColumns +
                                                ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"));
    bind_record(statement.get(), record);
    int result = sqlite3_step(statement.get());
    if (result == SQLITE_CONSTRAINT)
        return fail(Code::already_exists, "sandbox '" + record.id + "': exists already");
    if (result != SQLITE_DONE)
        return database_error(database_, result);
    return {};
}

Status Store::update(const SandboxRecord& record) {
    auto statement = TRY(
        prepare(database_,
                "UPDATE sandboxes SET template = ?2, state = ?3, created_unix_ms = ?4, pid = ?5, "
                "pid_start_ticks = ?6, labels = ?7, environment = ?8, owner = ?9 WHERE id = ?1"));
    bind_record(statement.get(), record);
    TRY(run(database_, statement));
    if (sqlite3_changes(database_) == 0)
        return fail(Code::not_found, "sandbox '" + record.id + "': there is none of that name");
    return {};
}

Status Store::remove(const std::string& id) {
    auto statement = TRY(prepare(database_, "DELETE FROM sandboxes WHERE id = ?1"));
    bind_text(statement.get(), 1, id);
    return run(database_, statement);
}

Result<std::optional<SandboxRecord>> Store::find(const std::string& id) {
    auto statement = TRY(
        prepare(database_, std::string("SELECT ") + kColumns + " FROM sandboxes WHERE id = ?1"));
    bind_text(statement.get(), 1, id);
    int result = sqlite3_step(statement.get());
    if (result == SQLITE_DONE)
        return std::nullopt;
    if (result != SQLITE_ROW)
        return database_error(database_, result);
    return std::optional(read_record(statement.get()));
}

Result<std::vector<SandboxRecord>> Store::list() {
    auto statement = TRY(prepare(database_, std::string("SELECT ") + kColumns +
                                                " FROM sandboxes ORDER BY created_unix_ms, id"));
    std::vector<SandboxRecord> records;
    for (;;) {
        int result = sqlite3_step(statement.get());
        if (result == SQLITE_DONE)
            return records;
        if (result != SQLITE_ROW)
            return database_error(database_, result);
        records.push_back(read_record(statement.get()));
    }
}

}  // namespace spore
