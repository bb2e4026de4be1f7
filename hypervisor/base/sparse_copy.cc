#include "hypervisor/base/sparse_copy.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "hypervisor/base/limits.h"
#include "hypervisor/base/unique_fd.h"

namespace spore {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStep = 16 * limits::kMiB;  // between two reports of progress

bool is_zero(const std::byte* bytes, size_t size) {
    return std::all_of(bytes, bytes + size, [](std::byte byte) { return byte == std::byte{0}; });
}

Status write_at(int file, const std::byte* bytes, size_t size, off_t offset,
                const std::string& name) {
    while (size > 0) {
        ssize_t written = ::pwrite(file, bytes, size, offset);
        if (written < 0)
            return fail_errno(name);
        bytes += written;
        size -= static_cast<size_t>(written);
        offset += written;
    }
    return {};
}

// Bytes [start, end) through a buffer of ours. `target` has holes where nothing is written.
Status copy_bytes(int source, int target, off_t start, off_t end, const std::string& name) {
    std::vector<std::byte> buffer(1 * limits::kMiB);
    while (start < end) {
        size_t most = std::min(buffer.size(), static_cast<size_t>(end - start));
        ssize_t got = ::pread(source, buffer.data(), most, start);
        if (got < 0)
            return fail_errno(name + ": reading what is to be copied");
        if (got == 0)
            return fail(Code::internal, name + ": its source shrank while it was copied");
        auto bytes = static_cast<size_t>(got);
        for (size_t page = 0; page < bytes; page += kPage) {
            size_t size = std::min(kPage, bytes - page);
            if (!is_zero(buffer.data() + page, size))
                TRY(write_at(target, buffer.data() + page, size, start + static_cast<off_t>(page),
                             name));
        }
        start += got;
    }
    return {};
}

// Bytes [start, end), shared by both files where the file system can. Between file systems, and on
// some, the kernel leaves copying to us.
Status copy_range(int source, int target, off_t start, off_t end, const std::string& name) {
    off_t in = start, out = start;
    while (in < end) {
        ssize_t copied =
            ::copy_file_range(source, &in, target, &out, static_cast<size_t>(end - in), 0);
        if (copied < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL))
            return copy_bytes(source, target, in, end, name);
        if (copied < 0)
            return fail_errno(name + ": copy_file_range");
        if (copied == 0)
            return fail(Code::internal, name + ": its source shrank while it was copied");
    }
    return {};
}

Status copy_data(int source, int target, off_t bytes, const std::string& from,
                 const std::string& to, const CopyProgress& progress) {
    if (::ioctl(target, FICLONE, source) == 0)
        return {};
    uint64_t done = 0;
    for (off_t position = 0; position < bytes;) {
        off_t data = ::lseek(source, position, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;  // nothing but a hole is left
        if (data < 0)
            return fail_errno(from + ": SEEK_DATA");
        off_t end = ::lseek(source, data, SEEK_HOLE);
        if (end < 0)
            return fail_errno(from + ": SEEK_HOLE");
        for (position = data; position < end;) {
            off_t step = std::min<off_t>(kStep, end - position);
            TRY(copy_range(source, target, position, position + step, to));
            position += step;
            done += static_cast<uint64_t>(step);
            if (progress)
                progress(done);
        }
    }
    return {};
}

}  // namespace

Status copy_sparse(const std::string& from, const std::string& to, const CopyProgress& progress) {
    UniqueFd source(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
    if (!source)
        return fail_errno(from);
    struct stat status = {};
    if (::fstat(source.get(), &status) != 0)
        return fail_errno(from);
    UniqueFd target(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!target)
        return fail_errno(to);
    auto copy = [&]() -> Status {
        if (::ftruncate(target.get(), status.st_size) != 0)
            return fail_errno(to);
        TRY(copy_data(source.get(), target.get(), status.st_size, from, to, progress));
        if (::fsync(target.get()) != 0)
            return fail_errno(to + ": fsync");
        return {};
    };
    auto copied = copy();
    if (!copied)
        ::unlink(to.c_str());
    return copied;
}

}  // namespace spore
