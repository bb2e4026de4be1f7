#pragma once

#include "hypervisor/base/result.h"

namespace spore::cli {

// Passes bytes both ways between two stream sockets until both have ended, each end for itself.
// Blocks. Errors: the host's.
Status relay(int one, int other);

// The same between a socket and standard input and output, until the socket's peer has ended: as
// netcat, since whoever types may never end.
Status relay_standard(int socket);

}  // namespace spore::cli
