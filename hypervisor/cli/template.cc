// spore template create|list|inspect|remove|verify

#include "hypervisor/base/parse_size.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/cli/network.h"
#include "hypervisor/sandbox/network_json.h"
#include "hypervisor/sandbox/template_check.h"

namespace spore::cli {

namespace {

nlohmann::json to_json(const TemplateInfo& info) {
    return {{"name", info.name},
            {"image", info.image},
            {"kernel", info.kernel},
            {"created", info.created},
            {"cpu_template", info.cpu_template},
            {"agent_version", info.agent_version},
            {"memory_bytes", info.memory_bytes},
            {"cpus", info.cpus},
            {"disk_bytes", info.disk_bytes},
            {"prepare", info.prepare},
            {"owner", info.owner},
            {"public", info.is_public},
            {"network", info.network ? spore::to_json(*info.network) : nlohmann::json(nullptr)},
            {"memory_image_bytes", info.memory_image_bytes},
            {"disk_layer_bytes", info.disk_layer_bytes},
            {"directory", info.directory.string()}};
}

struct CreateOptions {
    TemplateSpec spec;
    std::string memory = "256M";
    std::string disk = "1G";
};

Status create(Context& context, CreateOptions& options) {
    options.spec.memory_bytes = TRY(parse_size("memory", options.memory));
    options.spec.disk_bytes = TRY(parse_size("disk", options.disk));
    auto home = TRY(Home::open());
    TemplateInfo info;
    {
        ProgressLine line(context.globals);
        info = TRY(
            create_template(home, options.spec, [&](const std::string& text) { line.show(text); }));
    }
    if (context.globals.json)
        print_json(to_json(info));
    else
        std::printf("template %s: %s of memory (%s in its image), %u CPU%s\n", info.name.c_str(),
                    human_bytes(info.memory_bytes).c_str(),
                    human_bytes(info.memory_image_bytes).c_str(), info.cpus,
                    info.cpus == 1 ? "" : "s");
    return {};
}

Status list_all(Context& context) {
    auto templates = TRY(list_templates(TRY(Home::open())));
    if (context.globals.json) {
        nlohmann::json document = nlohmann::json::array();
        for (const TemplateInfo& info : templates)
            document.push_back(to_json(info));
        print_json(document);
        return {};
    }
    Table table({"NAME", "IMAGE", "KERNEL", "MEMORY", "CPUS", "DISK", "CREATED"});
    for (const TemplateInfo& info : templates)
        table.add({info.name, info.image, info.kernel, human_bytes(info.memory_bytes),
                   std::to_string(info.cpus), human_bytes(info.disk_bytes), info.created});
    table.print();
    return {};
}

Status verify_one(Context& context, const std::string& name) {
    TemplateCheck check;
    {
        ProgressLine line(context.globals);
        check = TRY(verify_template(TRY(Home::open()), name,
                                    [&](const std::string& text) { line.show(text); }));
    }
    if (context.globals.json)
        print_json({{"name", name},
                    {"verified", true},
                    {"sealed_anew", check.sealed_anew},
                    {"verity", check.verity}});
    else
        std::printf("template %s: all checksums match%s%s\n", name.c_str(),
                    check.sealed_anew ? ", sealed anew" : "",
                    check.verity ? ", the kernel checks what is read (fs-verity)" : "");
    return {};
}

}  // namespace

void add_template(CLI::App& app, Context& context) {
    CLI::App* group = app.add_subcommand("template", "VMs booted once, to be cloned");
    group->require_subcommand(1);

    auto options = std::make_shared<CreateOptions>();
    CLI::App* command = group->add_subcommand("create", "boot an image, prepare it, snapshot it");
    command->add_option("--owner", options->spec.owner,
                        "whose it is: create refuses to clone it for others");
    command->add_flag("--public", options->spec.is_public,
                      "let others have clones of it, though it is somebody's");
    command->add_option("name", options->spec.name, "the template's name")->required();
    command->add_option("--image", options->spec.image, "the image to boot")->required();
    command->add_option("--memory", options->memory, "guest memory (256M)");
    command->add_option("--cpus", options->spec.cpus, "virtual CPUs, 1 to 16 (1)");
    command->add_option("--disk", options->disk, "size of the guest's disk (1G)");
    command->add_option("--kernel", options->spec.kernel, "stock, tuned, or a kernel file (stock)");
    command->add_option("--cpu-template", options->spec.cpu_template,
                        "CPU features of this template and its clones: host, baseline (host)");
    add_network_options(command, options->spec.network);
    command->get_option("--network")
        ->description(
            "give clones a network card, whose network can be another, and the commands of "
            "--prepare "
            "this one: egress, open; none: no card (none)");
    command
        ->add_option("--prepare", options->spec.prepare,
                     "a shell command to run in the guest before the snapshot; repeatable")
        ->take_all()
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    on_chosen(command, context, [&context, options] { return create(context, *options); });

    on_chosen(group->add_subcommand("list", "all templates"), context,
              [&context] { return list_all(context); });

    auto name = std::make_shared<std::string>();
    CLI::App* inspect = group->add_subcommand("inspect", "one template, as JSON");
    inspect->add_option("name", *name, "the template's name")->required();
    on_chosen(inspect, context, [name]() -> Status {
        print_json(to_json(TRY(load_template(TRY(Home::open()), *name))));
        return {};
    });

    CLI::App* remove = group->add_subcommand("remove", "delete a template that no sandbox uses");
    remove->add_option("name", *name, "the template's name")->required();
    on_chosen(remove, context,
              [name]() -> Status { return remove_template(TRY(Home::open()), *name); });

    CLI::App* verify = group->add_subcommand("verify", "check every checksum of a template");
    verify->add_option("name", *name, "the template's name")->required();
    on_chosen(verify, context, [&context, name]() -> Status { return verify_one(context, *name); });
}

}  // namespace spore::cli
