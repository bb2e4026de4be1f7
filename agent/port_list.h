#pragma once

#include <memory>

#include "agent/request.h"

namespace spore {

Result<std::unique_ptr<Stream>> serve_port_list(const Request& request);

}  // namespace spore
