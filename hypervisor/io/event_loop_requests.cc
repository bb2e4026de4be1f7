// EventLoop's requests: one function for each opcode in use.

#include <cassert>

#include "hypervisor/io/event_loop.h"

namespace spore {

namespace {

// Marks a prepared entry as taking a fixed file and as `op`'s. The preparers of liburing reset
// both.
void finish(io_uring_sqe* entry, Operation& op) {
    entry->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(entry, &op);
}

uint32_t size32(size_t size) {
    assert(size <= INT32_MAX);
    return static_cast<uint32_t>(size);
}

}  // namespace

io_uring_sqe* EventLoop::begin(Operation& op, const RingFile* file) {
    assert(on_loop_thread());
    assert(!op.in_flight_ && "an operation is used for one request at a time");
    assert(file == nullptr || file->loop_ == this);
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    while (entry == nullptr) {
        io_uring_submit(&ring_);  // the queue is full: hand it over, it is empty afterwards
        entry = io_uring_get_sqe(&ring_);
    }
    op.in_flight_ = true;
    in_flight_++;
    return entry;
}

void EventLoop::arm_wake_up() {
    io_uring_sqe* entry = begin(*wake_up_read_, &wake_up_);
    in_flight_--;
    io_uring_prep_read(entry, static_cast<int>(wake_up_.slot_), &wake_up_count_,
                       sizeof(wake_up_count_), kStream);
    finish(entry, *wake_up_read_);
}

void EventLoop::read(Operation& op, const RingFile& file, std::span<std::byte> buffer,
                     uint64_t offset, int flags) {
    io_uring_sqe* entry = begin(op, &file);
    io_uring_prep_read(entry, static_cast<int>(file.slot_), buffer.data(), size32(buffer.size()),
                       offset);
    entry->rw_flags = flags;
    finish(entry, op);
}

void EventLoop::write(Operation& op, const RingFile& file, std::span<const std::byte> buffer,
                      uint64_t offset) {
    io_uring_sqe* entry = begin(op, &file);
    io_uring_prep_write(entry, static_cast<int>(file.slot_), buffer.data(), size32(buffer.size()),
                        offset);
    finish(entry, op);
}

void EventLoop::readv(Operation& op, const RingFile& file, std::span<const iovec> buffers,
                      uint64_t offset) {
    io_uring_sqe* entry = begin(op, &file);
    io_uring_prep_readv(entry, static_cast<int>(file.slot_), buffers.data(), size32(buffers.size()),
                        offset);
    finish(entry, op);
}

void EventLoop::writev(Operation& op, const RingFile& file, std::span<const iovec> buffers,
                       uint64_t offset) {
    io_uring_sqe* entry = begin(op, &file);
    io_uring_prep_writev(entry, static_cast<int>(file.slot_), buffers.data(),
                         size32(buffers.size()), offset);
    finish(entry, op);
}

void EventLoop::fdatasync(Operation& op, const RingFile& file) {
    io_uring_sqe* entry = begin(op, &file);
    io_uring_prep_fsync(entry, static_cast<int>(file.slot_), IORING_FSYNC_DATASYNC);
    finish(entry, op);
}

void EventLoop::fallocate(Operation& op, const RingFile& file, int mode, uint64_t offset,
                          uint64_t size) {
    io_uring_sqe* entry = begin(op, &file);
    io_uring_prep_fallocate(entry, static_cast<int>(file.slot_), mode, static_cast<off_t>(offset),
                            static_cast<off_t>(size));
    finish(entry, op);
}

void EventLoop::recv(Operation& op, const RingFile& socket, std::span<std::byte> buffer,
                     int flags) {
    io_uring_sqe* entry = begin(op, &socket);
    io_uring_prep_recv(entry, static_cast<int>(socket.slot_), buffer.data(), buffer.size(), flags);
    finish(entry, op);
}

void EventLoop::send(Operation& op, const RingFile& socket, std::span<const std::byte> buffer,
                     int flags) {
    io_uring_sqe* entry = begin(op, &socket);
    io_uring_prep_send(entry, static_cast<int>(socket.slot_), buffer.data(), buffer.size(),
                       flags | MSG_NOSIGNAL);
    finish(entry, op);
}

void EventLoop::sendmsg(Operation& op, const RingFile& socket, const msghdr* message, int flags) {
    io_uring_sqe* entry = begin(op, &socket);
    io_uring_prep_sendmsg(entry, static_cast<int>(socket.slot_), message,
                          static_cast<unsigned>(flags | MSG_NOSIGNAL));
    finish(entry, op);
}

void EventLoop::recvmsg(Operation& op, const RingFile& socket, msghdr* message, int flags) {
    io_uring_sqe* entry = begin(op, &socket);
    io_uring_prep_recvmsg(entry, static_cast<int>(socket.slot_), message,
                          static_cast<unsigned>(flags));
    finish(entry, op);
}

void EventLoop::accept(Operation& op, const RingFile& socket) {
    io_uring_sqe* entry = begin(op, &socket);
    io_uring_prep_accept(entry, static_cast<int>(socket.slot_), nullptr, nullptr,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
    finish(entry, op);
}

void EventLoop::connect(Operation& op, const RingFile& socket, const sockaddr* address,
                        socklen_t address_size) {
    io_uring_sqe* entry = begin(op, &socket);
    io_uring_prep_connect(entry, static_cast<int>(socket.slot_), address, address_size);
    finish(entry, op);
}

void EventLoop::poll(Operation& op, const RingFile& file, uint32_t events) {
    io_uring_sqe* entry = begin(op, &file);
    io_uring_prep_poll_add(entry, static_cast<int>(file.slot_), events);
    finish(entry, op);
}

void EventLoop::timeout(Operation& op, std::chrono::nanoseconds delay) {
    assert(delay.count() >= 0);
    io_uring_sqe* entry = begin(op, nullptr);
    op.time_.tv_sec = delay.count() / 1'000'000'000;
    op.time_.tv_nsec = delay.count() % 1'000'000'000;
    io_uring_prep_timeout(entry, &op.time_, 0, 0);
    finish(entry, op);
}

void EventLoop::cancel(Operation& op) {
    assert(on_loop_thread());
    if (!op.in_flight_)
        return;
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    while (entry == nullptr) {
        io_uring_submit(&ring_);
        entry = io_uring_get_sqe(&ring_);
    }
    io_uring_prep_cancel64(entry, reinterpret_cast<uintptr_t>(&op), 0);
    entry->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(entry, nullptr);
}

}  // namespace spore
