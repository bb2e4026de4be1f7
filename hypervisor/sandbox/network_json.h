#pragma once

// NetworkWords in records, in template.json and for users.

#include <nlohmann/json.hpp>

#include "hypervisor/network/policy.h"

namespace spore {

inline nlohmann::json to_json(const NetworkWords& words) {
    return {{"mode", words.mode}, {"allow", words.allow}, {"deny", words.deny}, {"dns", words.dns}};
}

// Throws nlohmann's exceptions, as its own get() does.
inline NetworkWords words_of(const nlohmann::json& document) {
    return {document.at("mode").get<std::string>(),
            document.at("allow").get<std::vector<std::string>>(),
            document.at("deny").get<std::vector<std::string>>(),
            document.at("dns").get<std::string>()};
}

}  // namespace spore
