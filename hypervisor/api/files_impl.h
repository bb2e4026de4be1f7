#pragma once

// What Files holds, for the files that define its calls.

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"

namespace spore {
inline namespace v1 {

struct Files::Impl {
    std::shared_ptr<Sandbox::Impl> sandbox;
};

}  // namespace v1
}  // namespace spore
