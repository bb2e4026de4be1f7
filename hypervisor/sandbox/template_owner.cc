#include "hypervisor/sandbox/template_owner.h"

#include <unistd.h>

#include <climits>

namespace spore {

Status set_template_owner(const std::filesystem::path& directory, const std::string& owner) {
    if (::symlink(owner.c_str(), (directory / kOwnerLink).c_str()) != 0)
        return fail_errno((directory / kOwnerLink).string());
    return {};
}

Status check_template_owner(const Home& home, const std::string& template_name,
                            const std::string& owner) {
    char found[PATH_MAX];
    std::filesystem::path link = home.templates() / template_name / kOwnerLink;
    ssize_t size = ::readlink(link.c_str(), found, sizeof(found));
    if (size < 0 && errno == ENOENT)
        return {};  // nobody's, or there is no such template: load_template() says it
    if (size < 0)
        return fail_errno(link.string());
    if (std::string_view(found, static_cast<size_t>(size)) == owner)
        return {};
    return fail(Code::permission_denied,
                "template '" + template_name + "': is another owner's, and not public" +
                    (owner.empty() ? "; no --owner was given" : ", for owner '" + owner + "'"));
}

}  // namespace spore
