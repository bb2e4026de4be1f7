#pragma once

// Whether a template's files are what they were when it was made: all of them byte for byte, off
// any clone's path. On that path only the seal is looked at (hypervisor/snapshot/seal.h).

#include "hypervisor/sandbox/template.h"

namespace spore {

struct TemplateCheck {
    bool sealed_anew = false;  // its seal was not that of these files, whose content is right
    bool verity = false;       // the kernel checks each page of its large files when it is read
};

// Reads everything, checks every checksum and the seal; seals anew what was moved here or touched,
// if its content is right. Errors: not_found, version_mismatch; corrupt, naming file and place.
Result<TemplateCheck> verify_template(const Home& home, const std::string& name,
                                      const Progress& progress);

// Calls `start`, which has a spore-vmm open the template's files. If it finds them corrupt, all of
// them are compared with their checksums: if they are right and it was the seal that was not, it is
// called again; else the error says what is wrong with them, or is that of `start`.
template <typename Start>
auto start_sealed(const Home& home, const std::string& name, const Progress& progress, Start start)
    -> decltype(start()) {
    auto started = start();
    if (started || started.error().code != Code::corrupt)
        return started;
    if (TRY(verify_template(home, name, progress)).sealed_anew)
        return start();
    return started;
}

}  // namespace spore
