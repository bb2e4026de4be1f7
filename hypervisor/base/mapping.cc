#include "hypervisor/base/mapping.h"

namespace spore {

Result<Mapping> Mapping::create(size_t size, int protection, int flags, int fd, off_t offset) {
    void* address = ::mmap(nullptr, size, protection, flags, fd, offset);
    if (address == MAP_FAILED)
        return fail_errno("mmap of " + std::to_string(size) + " bytes");
    return Mapping(static_cast<std::byte*>(address), size);
}

void Mapping::unmap() {
    if (data_ != nullptr)
        ::munmap(data_, size_);
    data_ = nullptr;
    size_ = 0;
}

}  // namespace spore
