#pragma once

// The zygote of a template: a process that has the snapshot read, checked and mapped, and forks a
// worker whenever its pool's keeper asks for one (schema/zygote.h). A worker has the parsed state
// and the mapping from its birth, and becomes one clone.

#include "hypervisor/vmm/vmm.h"

namespace spore {

// Serves `keeper` until it closes its end. One thread, no ring, no VM: there is nothing that a fork
// would tear apart. `claim`: to the zygote's own user; no worker holds it, or that user would stay
// in use for as long as they live. `log`: the workers'. Returns in the zygote with 0, and in each
// worker with its exit status.
Result<int> run_zygote(Kvm kvm, LoadedSnapshot snapshot, UniqueFd keeper, UniqueFd claim,
                       Vmm::Log log);

}  // namespace spore
