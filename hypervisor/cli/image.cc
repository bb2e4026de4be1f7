// spore image build|list|inspect|remove. Building is agent/image's: programs of Debian's, joined by
// scripts; this command finds and runs it.

#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/base/remove_tree.h"
#include "hypervisor/cli/commands.h"
#include "hypervisor/sandbox/image.h"

namespace spore::cli {

namespace {

nlohmann::json to_json(const Image& image) {
    nlohmann::json kernels = nlohmann::json::array();
    for (const ImageKernel& kernel : image.kernels)
        kernels.push_back(kernel.name);
    return {{"name", image.name},
            {"created", image.created},
            {"recipe", image.recipe},
            {"rootfs", image.rootfs.string()},
            {"rootfs_bytes", image.rootfs_bytes},
            {"kernels", kernels}};
}

// The builder in the source tree this binary was built from, or where it is installed.
Result<std::filesystem::path> find_builder() {
    if (auto installed = Home::program("image/build"))
        return installed;
    std::filesystem::path in_tree = std::filesystem::path(SPORE_SOURCE_ROOT) / "agent/image/build";
    if (::access(in_tree.c_str(), X_OK) == 0)
        return in_tree;
    return fail(Code::not_found, in_tree.string() + ": the image builder is not there");
}

// Runs `arguments` with our standard error as its output, and waits. Its exit status.
Result<int> run_builder(std::vector<std::string> arguments) {
    std::vector<char*> argv;
    for (std::string& argument : arguments)
        argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::fflush(nullptr);
    pid_t pid = ::fork();
    if (pid < 0)
        return fail_errno("fork");
    if (pid == 0) {
        ::dup2(STDERR_FILENO, STDOUT_FILENO);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return fail_errno("waitpid");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct BuildOptions {
    std::string name;
    std::string recipe = "debian";
    std::string packages;
    std::string kernel = "stock";
    bool force = false;
};

Status build_image(Context& context, const BuildOptions& options) {
    TRY(check_name("image", options.name));
    auto home = TRY(Home::open());
    auto agent = TRY(Home::program("spore-agent"));
    std::vector<std::string> arguments = {TRY(find_builder()).string(),
                                          "--name",
                                          options.name,
                                          "--recipe",
                                          options.recipe,
                                          "--kernel",
                                          options.kernel,
                                          "--agent",
                                          agent.string(),
                                          "--home",
                                          home.root().string()};
    if (!options.packages.empty())
        arguments.insert(arguments.end(), {"--packages", options.packages});
    if (options.force)
        arguments.push_back("--force");
    int status = TRY(run_builder(arguments));
    if (status != 0) {
        // The builder has said what is wrong, in the contract's words and with its exit statuses.
        if (context.globals.json)
            print_json({{"error",
                         {{"code", "internal"},
                          {"message", "image '" + options.name + "' was not built, exit status " +
                                          std::to_string(status) + "; see standard error"},
                          {"details", {{"exit_status", status}}}}}});
        context.exit_status = status;
        return {};
    }
    auto image = TRY(load_image(home, options.name));
    if (context.globals.json)
        print_json(to_json(image));
    else
        std::printf("image %s: %s\n", image.name.c_str(), image.rootfs.parent_path().c_str());
    return {};
}

Status list_all(Context& context) {
    auto images = TRY(list_images(TRY(Home::open())));
    if (context.globals.json) {
        nlohmann::json document = nlohmann::json::array();
        for (const Image& image : images)
            document.push_back(to_json(image));
        print_json(document);
        return {};
    }
    Table table({"NAME", "RECIPE", "KERNELS", "ROOT", "CREATED"});
    for (const Image& image : images) {
        std::string kernels;
        for (const ImageKernel& kernel : image.kernels)
            kernels += (kernels.empty() ? "" : ",") + kernel.name;
        table.add(
            {image.name, image.recipe, kernels, human_bytes(image.rootfs_bytes), image.created});
    }
    table.print();
    return {};
}

Status remove_image(const std::string& name) {
    auto home = TRY(Home::open());
    TRY(load_image(home, name));  // templates made from it have all they need
    return remove_tree(home.images() / name);
}

}  // namespace

void add_image(CLI::App& app, Context& context) {
    CLI::App* group = app.add_subcommand("image", "what guests are made of: kernel and disk");
    group->require_subcommand(1);

    auto options = std::make_shared<BuildOptions>();
    CLI::App* build = group->add_subcommand("build", "make an image from Debian's packages");
    build->add_option("name", options->name, "the image's name")->required();
    build->add_option("--recipe", options->recipe,
                      "debian, code, busybox, or a recipe file (debian)");
    build->add_option("--packages", options->packages, "more packages: a,b,c");
    build->add_option("--kernel", options->kernel,
                      "stock: Debian's; tuned: ours, built first (6 min); or stock,tuned (stock)");
    build->add_flag("--force", options->force, "build again even if nothing has changed");
    on_chosen(build, context, [&context, options] { return build_image(context, *options); });

    on_chosen(group->add_subcommand("list", "all images"), context,
              [&context] { return list_all(context); });

    auto inspected = std::make_shared<std::string>();
    CLI::App* inspect = group->add_subcommand("inspect", "one image, as JSON");
    inspect->add_option("name", *inspected, "the image's name")->required();
    on_chosen(inspect, context, [inspected]() -> Status {
        print_json(to_json(TRY(load_image(TRY(Home::open()), *inspected))));
        return {};
    });

    auto removed = std::make_shared<std::string>();
    CLI::App* remove =
        group->add_subcommand("remove", "delete an image; templates made from it stay");
    remove->add_option("name", *removed, "the image's name")->required();
    on_chosen(remove, context, [removed] { return remove_image(*removed); });
}

}  // namespace spore::cli
