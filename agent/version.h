#pragma once

namespace spore {

// The agent's own version, for people; what peers agree on is the protocol's (schema/frame.h).
inline constexpr const char* kAgentVersion = SPORE_VERSION;

}  // namespace spore
