#pragma once

// A sandbox's agent, for commands that ask it for more than one thing, and what it says as JSON.

#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "hypervisor/sandbox/agent_connection.h"

namespace spore::cli {

// Errors: not_found (sandbox), unavailable (its VM has ended), timeout.
Result<std::shared_ptr<AgentConnection>> link_agent(const std::string& sandbox);

// For what takes as long as it takes.
inline constexpr auto kNever = AgentConnection::Deadline::max();
// What is long enough for an answer that the agent gives at once.
AgentConnection::Deadline answer_deadline();

// Sets document[name] to the bytes as text, or where they are no UTF-8 document[name + "_base64"].
void set_bytes(nlohmann::json& document, const std::string& name, std::string_view bytes);

// One JSON document on one line of standard output, out at once.
void print_json_line(const nlohmann::json& document);

}  // namespace spore::cli
