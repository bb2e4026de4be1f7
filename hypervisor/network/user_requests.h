#pragma once

// What is asked of a keeper (user_network.h): one packet, a letter and a text; and its answer: one
// packet, "ok\n" and a text, with the tap beside it if that was asked for, or "CODE MESSAGE". One
// request a connection. Nobody but user_*.cc includes this.

#include <cstddef>

namespace spore::user_requests {

inline constexpr char kTakeTap = 't';
inline constexpr char kLoadRules = 'r';  // the text; answered with how nft prints them
inline constexpr char kList = 'l';       // "up\n" or "down\n", and how nft prints them
inline constexpr char kOpenGate = 'u';
inline constexpr char kCloseGate = 'd';

inline constexpr const char* kDirectory = "passt";
inline constexpr const char* kSocket = "passt/socket";
// Two rule sets of kNetworkRulesMax rules, and what nft makes of them: 45 KiB.
inline constexpr std::size_t kPacketBytesMax = 128 * 1024;
inline constexpr int kAnswerSecondsMax = 30;

}  // namespace spore::user_requests
