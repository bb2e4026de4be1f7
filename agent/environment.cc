#include "agent/environment.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

Result<std::vector<std::string>> copy_strings(const StringVector* strings, std::string_view what) {
    std::vector<std::string> copies;
    if (strings == nullptr)
        return copies;
    size_t bytes = 0;
    copies.reserve(strings->size());
    for (const auto* string : *strings) {
        const std::string_view text = view(string);
        bytes += text.size() + sizeof(uint32_t);
        if (bytes > limits::kFrameBytesMax) {
            return fail(Code::invalid_argument, std::string(what) + ": more than " +
                                                    std::to_string(limits::kFrameBytesMax) +
                                                    " bytes in sum");
        }
        if (text.find('\0') != std::string_view::npos) {
            return fail(
                Code::invalid_argument,
                std::string(what) + "[" + std::to_string(copies.size()) + "]: has a NUL in it");
        }
        copies.emplace_back(text);
    }
    return copies;
}

Status Environment::set(std::string_view assignment) {
    const size_t equals = assignment.find('=');
    if (equals == 0 || equals == std::string_view::npos) {
        return fail(Code::invalid_argument, "environment variable '" +
                                                std::string(assignment.substr(0, 64)) +
                                                "': must be NAME=value");
    }
    set(assignment.substr(0, equals), assignment.substr(equals + 1));
    return {};
}

void Environment::set(std::string_view name, std::string_view value) {
    variables_.insert_or_assign(std::string(name), std::string(value));
}

void Environment::unset(std::string_view name) {
    const auto found = variables_.find(name);
    if (found != variables_.end())
        variables_.erase(found);
}

std::string_view Environment::get(std::string_view name) const {
    const auto found = variables_.find(name);
    return found == variables_.end() ? std::string_view() : std::string_view(found->second);
}

std::vector<std::string> Environment::assignments() const {
    std::vector<std::string> all;
    all.reserve(variables_.size());
    for (const auto& [name, value] : variables_)
        all.push_back(name + "=" + value);
    return all;
}

Environment default_environment() {
    Environment environment;
    environment.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    environment.set("TERM", "dumb");
    return environment;
}

void set_user_variables(Environment& environment, const User& user) {
    environment.set("HOME", user.home);
    if (!user.name.empty()) {
        environment.set("USER", user.name);
        environment.set("LOGNAME", user.name);
    }
    if (!user.shell.empty())
        environment.set("SHELL", user.shell);
}

}  // namespace spore
