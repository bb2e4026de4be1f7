#pragma once

// The smallest kernel there is: an ELF image with a PVH entry that writes "R\n" to the serial port
// and halts for ever. It runs where ring 0 is interpreted.

#include <string>

namespace spore::test {

std::string tiny_kernel();
// The same without the note that says where the PVH entry is.
std::string tiny_kernel_without_note();

}  // namespace spore::test
