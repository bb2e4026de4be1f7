#include <spore/template.h>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"
#include "hypervisor/sandbox/template_check.h"

namespace spore {
inline namespace v1 {

Template make_template(const Home& home, TemplateInfo info) {
    Template::Info known = {.name = std::move(info.name),
                            .image = std::move(info.image),
                            .kernel = std::move(info.kernel),
                            .created = std::move(info.created),
                            .cpu_template = std::move(info.cpu_template),
                            .agent_version = std::move(info.agent_version),
                            .memory_bytes = info.memory_bytes,
                            .cpus = info.cpus,
                            .disk_bytes = info.disk_bytes,
                            .prepare = std::move(info.prepare),
                            .owner = std::move(info.owner),
                            .is_public = info.is_public,
                            .has_network = info.network.has_value(),
                            .memory_image_bytes = info.memory_image_bytes,
                            .disk_layer_bytes = info.disk_layer_bytes};
    return Template(std::make_shared<const Template::Impl>(Template::Impl{home, std::move(known)}));
}

const Template::Info& Template::info() const {
    return impl_->info;
}

Result<Template::Check> Template::verify(const OnProgress& progress) const {
    return guarded([&]() -> Result<Check> {
        const auto check = TRY(verify_template(
            impl_->home, impl_->info.name, progress ? progress : [](const std::string&) {}));
        return Check{.sealed_anew = check.sealed_anew, .verity = check.verity};
    });
}

Status Template::remove() const {
    return guarded([&] { return remove_template(impl_->home, impl_->info.name); });
}

}  // namespace v1
}  // namespace spore
