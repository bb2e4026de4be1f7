#include "devices/block/layered_disk.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "devices/virtio/descriptor_chain.h"

namespace spore {

namespace {

std::unexpected<Error> misfit(const std::string& path, const char* what, uint64_t bytes,
                              uint64_t bound) {
    return fail(Code::invalid_argument, "layered disk: '" + path + "': " + what + " is " +
                                            std::to_string(bytes) + " bytes; the bound is " +
                                            std::to_string(bound));
}

uint64_t round_up_to_cluster(uint64_t bytes) {
    return (bytes + LayerMap::kClusterBytes - 1) / LayerMap::kClusterBytes *
           LayerMap::kClusterBytes;
}

}  // namespace

Result<std::unique_ptr<LayeredDisk>> LayeredDisk::create(EventLoop& loop, Parts parts) {
    TRY(LayerMap::create(parts.bytes));  // the size's check
    if (parts.layers.size() > limits::kDiskLayersMax)
        return fail(Code::invalid_argument, "layered disk: " + std::to_string(parts.layers.size()) +
                                                " layers; the bound is " +
                                                std::to_string(limits::kDiskLayersMax));
    std::unique_ptr<LayeredDisk> disk(new LayeredDisk(loop, parts.bytes));
    if (parts.base) {
        if (parts.base->bytes > parts.bytes)
            return misfit(parts.base->path, "base image", parts.base->bytes, parts.bytes);
        LayerMap unused = TRY(LayerMap::create(round_up_to_cluster(parts.base->bytes)));
        TRY(disk->add_level(std::move(*parts.base), std::move(unused), true));
    }
    for (Layer& layer : parts.layers) {
        if (layer.file.bytes != layer.map.disk_bytes())
            return misfit(layer.file.path, "layer (its map is of another size)", layer.file.bytes,
                          layer.map.disk_bytes());
        if (layer.file.bytes > parts.bytes)
            return misfit(layer.file.path, "layer", layer.file.bytes, parts.bytes);
        TRY(disk->add_level(std::move(layer.file), std::move(layer.map), false));
    }
    disk->read_only_ = !parts.top;
    if (parts.top) {
        DiskFile& file = parts.top->file;
        if (!file.writable)
            return fail(Code::invalid_argument,
                        "layered disk: top '" + file.path + "' is not opened for writing");
        if (file.bytes != parts.bytes || parts.top->map.disk_bytes() != parts.bytes)
            return misfit(file.path, "top (or its map)", file.bytes, parts.bytes);
        TRY(disk->add_level(std::move(file), std::move(parts.top->map), false));
    }
    return disk;
}

LayeredDisk::LayeredDisk(EventLoop& loop, uint64_t bytes) : loop_(loop), transfers_(loop) {
    capacity_ = bytes;
    // Transfers keep pointers to a level's file while they last; levels_ itself never moves then.
    levels_.reserve(limits::kDiskLayersMax + 2);
}

LayeredDisk::~LayeredDisk() {
    assert(allocating_.empty() && waiting_.empty());
}

Status LayeredDisk::add_level(DiskFile file, LayerMap map, bool whole) {
    RingFile ring_file = TRY(loop_.add_file(std::move(file.fd)));
    levels_.push_back(
        {std::move(ring_file), std::move(file.path), std::move(map), whole, file.bytes});
    return {};
}

Status LayeredDisk::freeze(DiskFile new_top) {
    assert(in_flight() == 0);
    if (read_only_)
        return fail(Code::invalid_argument, "layered disk: a read-only disk has no top to freeze");
    size_t layers = levels_.size() - (levels_.front().whole ? 1 : 0);  // the top included
    if (layers > limits::kDiskLayersMax)
        return fail(Code::resource_exhausted, "layered disk: has " + std::to_string(layers - 1) +
                                                  " layers below its top; the bound is " +
                                                  std::to_string(limits::kDiskLayersMax));
    if (!new_top.writable || new_top.bytes != capacity_)
        return misfit(new_top.path, "new top", new_top.bytes, capacity_);
    if (::lseek(new_top.fd.get(), 0, SEEK_DATA) >= 0)
        return fail(Code::invalid_argument,
                    "layered disk: new top '" + new_top.path + "' is not empty");
    LayerMap map = TRY(LayerMap::create(capacity_));
    RingFile file = TRY(loop_.add_file(std::move(new_top.fd)));
    TRY(share_disk_file(top().file.fd(), top().path));  // clones may open it from here on
    levels_.push_back({std::move(file), std::move(new_top.path), std::move(map), false, capacity_});
    return {};
}

// The top alone: what is beyond a layer's end reads as zeros.
Status LayeredDisk::grow(uint64_t bytes) {
    if (bytes == capacity_)
        return {};
    if (read_only_ || bytes < capacity_)
        return fail(Code::invalid_argument,
                    "layered disk: cannot be made " + std::to_string(bytes) + " bytes: it has " +
                        std::to_string(capacity_) +
                        (read_only_ ? " and is read-only" : " already and cannot shrink"));
    TRY(LayerMap::create(bytes));  // the size's check, before the file has it
    if (::ftruncate(top().file.fd(), static_cast<off_t>(bytes)) != 0)
        return fail_errno("making '" + top().path + "' " + std::to_string(bytes) + " bytes long");
    TRY(top().map.grow(bytes));
    top().bytes = capacity_ = bytes;
    return {};
}

LayeredDisk::Job& LayeredDisk::take_job(Kind kind, DiskRequest& request, uint64_t offset,
                                        uint64_t size) {
    assert(within(offset, size) && size > 0);
    if (free_jobs_.empty()) {
        jobs_.push_back(std::make_unique<Job>());
        free_jobs_.reserve(jobs_.size());
        free_jobs_.push_back(jobs_.back().get());
    }
    Job& job = *free_jobs_.back();
    free_jobs_.pop_back();
    job.kind = kind;
    job.request = &request;
    job.buffers = {};
    job.offset = job.position = offset;
    job.end = offset + size;
    job.pending = 0;
    job.result = 0;
    job.allocates = false;
    job.prefix = job.suffix = 0;
    return job;
}

void LayeredDisk::finish(Job& job) {
    DiskRequest& request = *job.request;
    free_jobs_.push_back(&job);
    complete(request, job.result);
}

// Disk's promise: never from inside the call.
void LayeredDisk::finish_soon(Job& job) {
    loop_.defer([this, &job] { finish(job); });
}

// One transfer of `job` is over; the last of its round goes on with `next`.
FileTransfer::Done LayeredDisk::step(Job& job, void (LayeredDisk::*next)(Job&)) {
    job.pending++;
    return [this, &job, next](int32_t result) {
        if (result < 0 && job.result == 0)
            job.result = result;
        if (--job.pending == 0)
            (this->*next)(job);
    };
}

LayeredDisk::Piece LayeredDisk::piece_at(uint64_t offset, uint64_t bytes) const {
    auto level_of = [this](uint64_t cluster) -> const Level* {
        for (size_t index = levels_.size(); index > 0; index--) {
            if (levels_[index - 1].holds(cluster))
                return &levels_[index - 1];
        }
        return nullptr;
    };
    uint64_t cluster = offset / kClusterBytes;
    const Level* level = level_of(cluster);
    uint64_t end = std::min(offset + bytes, (cluster + 1) * kClusterBytes);
    if (level != nullptr && level->whole && level->bytes < end) {
        // The base ends within this cluster, and zeros follow.
        return offset < level->bytes ? Piece{level, level->bytes - offset}
                                     : Piece{nullptr, end - offset};
    }
    while (end < offset + bytes && level_of(++cluster) == level)
        end = std::min(offset + bytes, (cluster + 1) * kClusterBytes);
    if (level != nullptr && level->whole)
        end = std::min(end, level->bytes);
    return {level, end - offset};
}

void LayeredDisk::read(std::span<const iovec> buffers, uint64_t offset, DiskRequest& request) {
    assert(buffers.size() <= kBuffersMax);
    uint64_t size = 0;
    for (const iovec& buffer : buffers)
        size += buffer.iov_len;
    begin(request);
    Job& job = take_job(Kind::read, request, offset, size);
    job.buffers = buffers;
    continue_read(job);
}

void LayeredDisk::continue_read(Job& job) {
    for (unsigned pieces = 0; pieces < kPiecesMax && job.position < job.end;) {
        Piece piece = piece_at(job.position, job.end - job.position);
        size_t skip = job.position - job.offset;
        job.position += piece.bytes;
        FileTransfer* transfer = piece.level != nullptr ? &transfers_.take() : nullptr;
        std::vector<iovec>& target = transfer != nullptr ? transfer->buffers() : scratch_;
        slice(job.buffers, skip, piece.bytes, target);
        if (transfer != nullptr) {
            pieces++;
            transfer->read(piece.level->file, job.position - piece.bytes,
                           step(job, &LayeredDisk::end_read_round));
            continue;
        }
        for (const iovec& buffer : scratch_)
            std::memset(buffer.iov_base, 0, buffer.iov_len);
        scratch_.clear();
    }
    if (job.pending == 0)
        finish_soon(job);
}

void LayeredDisk::end_read_round(Job& job) {
    if (job.position < job.end && job.result == 0)
        continue_read(job);
    else
        finish(job);
}

void LayeredDisk::flush(DiskRequest& request) {
    begin(request);
    if (read_only_) {
        loop_.defer([this, &request] { complete(request, 0); });
        return;
    }
    transfers_.take().sync(top().file,
                           [this, &request](int32_t result) { complete(request, result); });
}

}  // namespace spore
