#include "hypervisor/base/result.h"

namespace spore {

namespace {

struct CodeRow {
    Code code;
    std::string_view name;
    int exit_status;  // shared/cli.md, Exit status
};

constexpr CodeRow kCodes[] = {
    {Code::invalid_argument, "invalid_argument", 64},
    {Code::not_found, "not_found", 66},
    {Code::already_exists, "already_exists", 73},
    {Code::permission_denied, "permission_denied", 77},
    {Code::host_unsupported, "host_unsupported", 69},
    {Code::resource_exhausted, "resource_exhausted", 75},
    {Code::corrupt, "corrupt", 65},
    {Code::version_mismatch, "version_mismatch", 65},
    {Code::timeout, "timeout", 75},
    {Code::unavailable, "unavailable", 69},
    {Code::internal, "internal", 70},
};

const CodeRow& row(Code code) {
    for (const CodeRow& candidate : kCodes) {
        if (candidate.code == code)
            return candidate;
    }
    return kCodes[std::size(kCodes) - 1];
}

Code code_of_errno(int error) {
    switch (error) {
        case ENOENT:
        case ENOTDIR:
        case ESRCH:
            return Code::not_found;
        case EEXIST:
            return Code::already_exists;
        case EACCES:
        case EPERM:
        case EROFS:
            return Code::permission_denied;
        case ENOMEM:
        case EMFILE:
        case ENFILE:
        case ENOSPC:
        case EDQUOT:
        case EAGAIN:
            return Code::resource_exhausted;
        case EISDIR:
        case ENAMETOOLONG:
        case ELOOP:
            return Code::invalid_argument;
        case ETIMEDOUT:
            return Code::timeout;
        case ECONNREFUSED:
        case ECONNRESET:
        case EPIPE:
            return Code::unavailable;
        default:
            return Code::internal;
    }
}

}  // namespace

std::string_view code_name(Code code) {
    return row(code).name;
}

Code code_from_name(std::string_view name) {
    for (const CodeRow& candidate : kCodes) {
        if (candidate.name == name)
            return candidate.code;
    }
    return Code::internal;
}

int exit_status(Code code) {
    return row(code).exit_status;
}

Error Error::within(std::string_view context) && {
    message.insert(0, ": ").insert(0, context);
    return std::move(*this);
}

std::unexpected<Error> fail_errno(std::string_view what, int error) {
    return fail(code_of_errno(error), std::string(what) + ": " + std::strerror(error));
}

}  // namespace spore
