#pragma once

// nftables, by libnftables, which is loaded when it is first needed: no command that has nothing to
// do with networks pays for it, and a host without it gets an error instead of a program that does
// not start. All act in the calling thread's network namespace; any thread, one at a time.

#include <string>

#include "hypervisor/base/result.h"

namespace spore {

// Whether libnftables is there. Errors: host_unsupported, saying what to install.
Status find_nft();
// All of `text` or nothing. Errors: permission_denied, host_unsupported, invalid_argument with
// nft's own words.
Status run_nft(const std::string& text);
// A table as nft prints it, without counters and without what its sets hold. Errors: not_found.
Result<std::string> list_table(const std::string& family_and_name);

}  // namespace spore
