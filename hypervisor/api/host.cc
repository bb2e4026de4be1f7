#include <spore/host.h>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"
#include "hypervisor/api/limit_words.h"
#include "hypervisor/sandbox/host_facts.h"

namespace spore {
inline namespace v1 {

std::string_view library_version() {
    return SPORE_VERSION;
}

namespace {

Host make_host(Home home) {
    return Host(std::make_shared<const Host::Impl>(Host::Impl{std::move(home)}));
}

Sandbox make_sandbox(const Home& home, SandboxInfo info) {
    return Sandbox(std::make_shared<Sandbox::Impl>(home, std::move(info)));
}

}  // namespace

Result<Host> Host::open() {
    return guarded([]() -> Result<Host> { return make_host(TRY(Home::open())); });
}

Result<Host> Host::open(const std::filesystem::path& home) {
    return guarded([&]() -> Result<Host> { return make_host(TRY(Home::open(home))); });
}

const std::filesystem::path& Host::home() const {
    return impl_->home.root();
}

Result<std::vector<Host::Finding>> Host::examine() const {
    return guarded([]() -> Result<std::vector<Finding>> {
        std::vector<Finding> findings;
        for (HostFinding& each : examine_host().findings)
            findings.push_back({.name = std::move(each.name),
                                .good = each.good,
                                .needed = each.needed,
                                .found = std::move(each.what),
                                .remedy = std::move(each.remedy)});
        return findings;
    });
}

Result<Template> Host::create_template(const Template::Spec& spec, const OnProgress& progress,
                                       const Call& call) const {
    return guarded([&]() -> Result<Template> {
        const TemplateSpec wanted = {.name = spec.name,
                                     .image = spec.image,
                                     .kernel = spec.kernel,
                                     .memory_bytes = spec.memory_bytes,
                                     .cpus = spec.cpus,
                                     .disk_bytes = spec.disk_bytes,
                                     .cpu_template = spec.cpu_template,
                                     .owner = spec.owner,
                                     .is_public = spec.is_public,
                                     .prepare = spec.prepare,
                                     .network = words_of(spec.network),
                                     .boot_limit = spec.boot_limit,
                                     .prepare_limit = spec.prepare_limit,
                                     .deadline = call.deadline,
                                     .stop = call.stop};
        return make_template(impl_->home, TRY(spore::create_template(
                                              impl_->home, wanted,
                                              progress ? progress : [](const std::string&) {})));
    });
}

Result<Template> Host::find_template(const std::string& name) const {
    return guarded([&]() -> Result<Template> {
        return make_template(impl_->home, TRY(load_template(impl_->home, name)));
    });
}

Result<std::vector<Template>> Host::list_templates() const {
    return guarded([&]() -> Result<std::vector<Template>> {
        std::vector<Template> templates;
        for (TemplateInfo& info : TRY(spore::list_templates(impl_->home)))
            templates.push_back(make_template(impl_->home, std::move(info)));
        return templates;
    });
}

Result<Sandbox> Host::create_sandbox(const Sandbox::Spec& spec, const Call& call) const {
    return guarded([&]() -> Result<Sandbox> {
        SandboxSpec wanted;
        wanted.id = spec.id;
        wanted.template_name = spec.template_name;
        wanted.environment = spec.environment;
        wanted.labels = spec.labels;
        wanted.owner = spec.owner;
        wanted.network = words_of(spec.network);
        wanted.quotas = TRY(with_words({}, words_of(spec.limits)));
        wanted.cold = spec.cold;
        wanted.limit = spec.limit;
        wanted.deadline = call.deadline;
        wanted.stop = call.stop;
        return sandbox_of(impl_->home, TRY(spore::create_sandbox(impl_->home, wanted)));
    });
}

Result<Sandbox> Host::find_sandbox(const std::string& id) const {
    return guarded([&]() -> Result<Sandbox> {
        return make_sandbox(impl_->home, TRY(spore::find_sandbox(impl_->home, id)));
    });
}

Result<std::vector<Sandbox>> Host::list_sandboxes() const {
    return guarded([&]() -> Result<std::vector<Sandbox>> {
        std::vector<Sandbox> sandboxes;
        for (SandboxInfo& info : TRY(spore::list_sandboxes(impl_->home)))
            sandboxes.push_back(make_sandbox(impl_->home, std::move(info)));
        return sandboxes;
    });
}

}  // namespace v1
}  // namespace spore
