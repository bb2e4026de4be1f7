#pragma once

// What keeps a template where it is: held while clones of it are being made, so that removing it
// cannot come between a clone's files or before its record.

#include "hypervisor/base/unique_fd.h"
#include "hypervisor/sandbox/home.h"

namespace spore {

class TemplateLock {
  public:
    // Any number at once, none while somebody removes it; held until this goes, or its process
    // dies. Errors: not_found; unavailable (it is being removed).
    static Result<TemplateLock> share(const Home& home, const std::string& name);
    // The only one. Errors: not_found; unavailable (clones of it are being made).
    static Result<TemplateLock> own(const Home& home, const std::string& name);

    TemplateLock(TemplateLock&&) = default;
    TemplateLock& operator=(TemplateLock&& other) noexcept {
        std::swap(directory_, other.directory_);
        return *this;
    }
    ~TemplateLock();

  private:
    explicit TemplateLock(UniqueFd directory) : directory_(std::move(directory)) {}
    UniqueFd directory_;
};

}  // namespace spore
