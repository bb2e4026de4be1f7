// spore doctor: what this host can do, why, and what to do about it.

#include "hypervisor/cli/commands.h"
#include "hypervisor/sandbox/host_facts.h"

namespace spore::cli {

void add_doctor(CLI::App& app, Context& context) {
    CLI::App* command = app.add_subcommand("doctor", "what this host can do, and what to fix");
    on_chosen(command, context, [&context]() -> Status {
        const HostFacts facts = examine_host();
        const bool good = facts.good();
        const char* host = facts.runs_linux ? "kvm" : "emulated";
        if (context.globals.json) {
            nlohmann::json checks = nlohmann::json::array();
            for (const HostFinding& finding : facts.findings)
                checks.push_back({{"name", finding.name},
                                  {"good", finding.good},
                                  {"needed", finding.needed},
                                  {"found", finding.what},
                                  {"why", finding.why},
                                  {"remedy", finding.remedy}});
            print_json({{"good", good}, {"host", host}, {"checks", checks}});
        } else {
            Table table({"", "CHECK", "FOUND"});
            for (const HostFinding& finding : facts.findings) {
                table.add({finding.good     ? "ok"
                           : finding.needed ? "NO"
                                            : "--",
                           finding.name, finding.what});
                if (!finding.good && !finding.why.empty())
                    table.add({"", "", "  " + finding.why});
                if (!finding.remedy.empty())
                    table.add({"", "", "→ " + finding.remedy});
            }
            table.print();
            std::printf("\n%s\n", good ? "This host runs Linux guests."
                                       : "This host does not run Linux guests; the emulated host "
                                         "(tests/bed) does.");
        }
        if (!good)
            context.exit_status = exit_status(Code::host_unsupported);
        return {};
    });
}

}  // namespace spore::cli
