#include "hypervisor/sandbox/template_remains.h"

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/sandbox/card.h"
#include "hypervisor/sandbox/record.h"
#include "hypervisor/sandbox/sandbox_remains.h"

namespace spore {

Status clear_template_remains(const Home& home) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(home.templates(), error)) {
        std::string name = entry.path().filename();
        if (!name.starts_with(kMakingTemplate) && !name.starts_with(kRemovingTemplate))
            continue;
        auto lock = DirectoryLock::take(entry.path());
        if (!lock)
            continue;
        TRY(end_and_remove(entry.path() / kTemplateRun));
        TRY(remove_card_network(entry.path()));
        TRY(remove_tree(entry.path()));
    }
    return {};
}

}  // namespace spore
