#include "hypervisor/base/result.h"

namespace spore {

namespace {

struct CodeRow {
    Code code;
    int exit_status;  // shared/cli.md, Exit status
};

constexpr CodeRow kCodes[] = {
    {Code::invalid_argument, 64},  {Code::not_found, 66},        {Code::already_exists, 73},
    {Code::permission_denied, 77}, {Code::host_unsupported, 69}, {Code::resource_exhausted, 75},
    {Code::corrupt, 65},           {Code::version_mismatch, 65}, {Code::timeout, 75},
    {Code::unavailable, 69},       {Code::internal, 70},
};

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

Code code_from_name(std::string_view name) {
    for (const CodeRow& row : kCodes) {
        if (code_name(row.code) == name)
            return row.code;
    }
    return Code::internal;
}

int exit_status(Code code) {
    for (const CodeRow& row : kCodes) {
        if (row.code == code)
            return row.exit_status;
    }
    return exit_status(Code::internal);
}

std::unexpected<Error> fail_errno(std::string_view what, int error) {
    return fail(code_of_errno(error), std::string(what) + ": " + std::strerror(error));
}

}  // namespace spore
