// spore pool start, stop, list

#include "hypervisor/sandbox/pool.h"

#include "hypervisor/cli/commands.h"

namespace spore::cli {

namespace {

struct PoolSizes {
    PoolSpec spec;
    std::string limit = "120s";
    int ready_fd = -1;  // of a keeper
};

Status start(Context& context, const PoolSizes& options) {
    auto home = TRY(Home::open());
    TRY(start_pool(home, options.spec, TRY(parse_duration("timeout", options.limit))));
    if (context.globals.json)
        print_json({{"template", options.spec.template_name},
                    {"parked", options.spec.parked},
                    {"ready", options.spec.ready}});
    else
        std::printf("pool %s: %u parked, %u ready\n", options.spec.template_name.c_str(),
                    options.spec.parked, options.spec.ready);
    return {};
}

Status list(Context& context) {
    auto pools = TRY(list_pools(TRY(Home::open())));
    if (context.globals.json) {
        nlohmann::json document = nlohmann::json::array();
        for (const PoolInfo& pool : pools)
            document.push_back({{"template", pool.spec.template_name},
                                {"alive", pool.alive},
                                {"keeper_pid", pool.keeper_pid},
                                {"parked", pool.parked},
                                {"parked_wanted", pool.spec.parked},
                                {"ready", pool.ready},
                                {"ready_wanted", pool.spec.ready}});
        print_json(document);
        return {};
    }
    Table table({"TEMPLATE", "KEEPER", "PARKED", "READY"});
    for (const PoolInfo& pool : pools) {
        table.add({pool.spec.template_name, pool.alive ? std::to_string(pool.keeper_pid) : "dead",
                   std::to_string(pool.parked) + "/" + std::to_string(pool.spec.parked),
                   std::to_string(pool.ready) + "/" + std::to_string(pool.spec.ready)});
    }
    table.print();
    return {};
}

void add_sizes(CLI::App* command, PoolSizes& options) {
    command->add_option("template", options.spec.template_name, "the template to clone")
        ->required();
    command->add_option("--parked", options.spec.parked,
                        "clones that wait with their VM made: the fastest to get");
    command->add_option("--ready", options.spec.ready,
                        "clones that wait as a process only: they take less memory");
}

}  // namespace

void add_pool(CLI::App& app, Context& context) {
    CLI::App* pool = app.add_subcommand("pool", "clones made ahead of demand: what create takes");
    pool->require_subcommand(1);

    auto options = std::make_shared<PoolSizes>();
    CLI::App* start_command =
        pool->add_subcommand("start", "keep clones of a template waiting, or change how many");
    add_sizes(start_command, *options);
    start_command->add_option("--timeout", options->limit, "give up after this long (120s)");
    on_chosen(start_command, context, [&context, options] { return start(context, *options); });

    auto name = std::make_shared<std::string>();
    CLI::App* stop_command =
        pool->add_subcommand("stop", "end what waits; sandboxes that came of it go on");
    stop_command->add_option("template", *name, "whose pool")->required();
    on_chosen(stop_command, context,
              [name]() -> Status { return stop_pool(TRY(Home::open()), *name); });

    CLI::App* list_command = pool->add_subcommand("list", "all pools, and how many wait");
    on_chosen(list_command, context, [&context] { return list(context); });

    auto keeping = std::make_shared<PoolSizes>();
    CLI::App* keep = pool->add_subcommand("keep", "be a pool's keeper, in the foreground");
    keep->group("");  // what start starts
    add_sizes(keep, *keeping);
    keep->add_option("--ready-fd", keeping->ready_fd, "where to say that the pool is full");
    on_chosen(keep, context, [keeping]() -> Status {
        return keep_pool(TRY(Home::open()), keeping->spec, keeping->ready_fd);
    });
}

}  // namespace spore::cli
