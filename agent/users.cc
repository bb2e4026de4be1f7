#include "agent/users.h"

#include <charconv>

#include "agent/file.h"
#include "agent/file_path.h"

namespace spore {

namespace {

constexpr size_t kDatabaseBytesMax = 1 << 20;

std::optional<uint32_t> parse_id(std::string_view text) {
    uint32_t id = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    // (uid_t)-1 means "leave it" to the system calls.
    if (error != std::errc() || end != text.data() + text.size() || id == UINT32_MAX)
        return std::nullopt;
    return id;
}

// Calls `row` with the fields of each line "a:b:c".
template <typename Row>
void for_each_row(std::string_view database, Row&& row) {
    while (!database.empty()) {
        const size_t end = std::min(database.find('\n'), database.size());
        std::string_view line = database.substr(0, end);
        database.remove_prefix(std::min(end + 1, database.size()));
        std::vector<std::string_view> fields;
        while (true) {
            const size_t colon = line.find(':');
            fields.push_back(line.substr(0, colon));
            if (colon == std::string_view::npos)
                break;
            line.remove_prefix(colon + 1);
        }
        row(fields);
    }
}

bool lists(std::string_view members, std::string_view name) {
    while (!members.empty()) {
        const size_t comma = std::min(members.find(','), members.size());
        if (members.substr(0, comma) == name)
            return true;
        members.remove_prefix(std::min(comma + 1, members.size()));
    }
    return false;
}

bool fill_from_passwd(User& user, std::string_view name, std::optional<uint32_t> uid,
                      std::string_view passwd) {
    bool found = false;
    for_each_row(passwd, [&](const std::vector<std::string_view>& fields) {
        if (found || fields.size() < 7)
            return;
        const auto row_uid = parse_id(fields[2]), row_gid = parse_id(fields[3]);
        if (!row_uid || !row_gid || !(fields[0] == name || (uid && *uid == *row_uid)))
            return;
        found = true;
        user.name = fields[0];
        user.uid = *row_uid;
        user.gid = *row_gid;
        user.home = fields[5];
        user.shell = fields[6];
    });
    return found;
}

Status use_group(User& user, std::string_view wanted, std::string_view groups) {
    std::optional<uint32_t> gid = parse_id(wanted);
    if (!gid) {
        for_each_row(groups, [&](const std::vector<std::string_view>& fields) {
            if (!gid && fields.size() >= 3 && fields[0] == wanted)
                gid = parse_id(fields[2]);
        });
    }
    if (!gid)
        return fail(Code::not_found, "group " + quoted(wanted) + ": not in /etc/group");
    user.gid = *gid;
    return {};
}

// What has not been made yet (an empty image) has nobody in it.
Result<std::string> read_database(const std::string& path) {
    auto content = read_file(path, kDatabaseBytesMax);
    if (!content && content.error().code == Code::not_found)
        return std::string();
    return content;
}

}  // namespace

Result<User> find_user(std::string_view spec, const std::string& root) {
    const std::string passwd = TRY(read_database(root + "/etc/passwd"));
    const std::string groups = TRY(read_database(root + "/etc/group"));
    const size_t colon = spec.find(':');
    const std::string_view name = spec.substr(0, colon);
    const auto uid = parse_id(name);
    User user;
    if (!fill_from_passwd(user, name, uid, passwd)) {
        if (!uid)
            return fail(Code::not_found, "user " + quoted(name) + ": not in /etc/passwd");
        user.uid = *uid;
        user.gid = *uid;
    }
    if (user.home.empty())
        user.home = "/";
    for_each_row(groups, [&](const std::vector<std::string_view>& fields) {
        if (fields.size() < 4 || user.name.empty() || !lists(fields[3], user.name))
            return;
        if (const auto gid = parse_id(fields[2]))
            user.groups.push_back(*gid);
    });
    if (colon != std::string_view::npos)
        TRY(use_group(user, spec.substr(colon + 1), groups));
    return user;
}

}  // namespace spore
