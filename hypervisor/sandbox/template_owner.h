#pragma once

// Whose a template is. One that is nobody's, or public, may be cloned for anybody; another's is
// not, since its memory and its disk are its owner's.

#include <filesystem>
#include <string>

#include "hypervisor/sandbox/home.h"

namespace spore {

// A link in the template's directory whose target is the owner's name, if it is one's own: asked
// for on the path of every create, at the price of one system call.
inline constexpr const char* kOwnerLink = "owner";

// Errors: the host's.
Status set_template_owner(const std::filesystem::path& directory, const std::string& owner);
// Errors: permission_denied; the host's.
Status check_template_owner(const Home& home, const std::string& template_name,
                            const std::string& owner);

}  // namespace spore
