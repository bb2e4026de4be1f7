// Bytes of a stream, torn at places that the input chooses, through schema/frame.h: no frame that
// it hands out may lead outside itself.

#include <algorithm>
#include <cstdlib>

#include "schema/frame.h"

namespace {

size_t touch(const flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>* strings) {
    size_t sum = 0;
    if (strings != nullptr) {
        for (const auto* string : *strings)
            sum +=
                spore::view(string).size() + static_cast<uint8_t>(string->c_str()[string->size()]);
    }
    return sum;
}

size_t touch(std::string_view text) {
    return static_cast<size_t>(std::count(text.begin(), text.end(), 'x'));
}

size_t touch(std::span<const std::byte> bytes) {
    return static_cast<size_t>(std::count(bytes.begin(), bytes.end(), std::byte{1}));
}

using spore::view;
namespace wire = spore::wire;

size_t touch(const wire::Exec& exec) {
    size_t sum = touch(exec.argv()) + touch(exec.env()) + touch(exec.env_unset()) +
                 touch(view(exec.cwd())) + touch(view(exec.user())) + touch(view(exec.session())) +
                 exec.timeout_ms() + exec.stdout_credit();
    if (const auto* pty = exec.pty())
        sum += pty->rows() + pty->columns();
    return sum;
}

size_t touch(const wire::Exited& exited) {
    return exited.exit_status() + exited.cpu_us() + exited.peak_memory_bytes() +
           exited.oom_killed() + exited.session_ended();
}

size_t touch(const wire::FileEntry& entry) {
    return touch(view(entry.path())) + touch(view(entry.target())) + entry.size() + entry.mode() +
           static_cast<size_t>(entry.mtime_ns()) + static_cast<size_t>(entry.type());
}

// Bodies of version 3 that are not requests: what the host reads.
size_t touch_answer(const wire::Frame& frame) {
    if (const auto* body = frame.body_as_FileEntry())
        return touch(*body);
    if (const auto* body = frame.body_as_FileData())
        return touch(view(body->bytes())) + body->eof();
    if (const auto* body = frame.body_as_LogRecord())
        return touch(view(body->bytes())) + body->sequence() + body->dropped();
    if (const auto* body = frame.body_as_LogMatch())
        return touch(view(body->line())) + body->begin() + body->length();
    if (const auto* body = frame.body_as_Done())
        return body->bytes() + body->truncated();
    size_t sum = 0;
    if (const auto* body = frame.body_as_FileEntries()) {
        for (const auto* entry : *body->entries())
            sum += touch(*entry);
    } else if (const auto* events = frame.body_as_WatchEvents()) {
        for (const auto* event : *events->events())
            sum += touch(view(event->path())) + touch(view(event->to()));
    } else if (const auto* process = frame.body_as_ProcessInfo()) {
        sum = touch(view(process->name())) + touch(process->argv());
        if (process->exited() != nullptr)
            sum += touch(*process->exited());
    } else if (const auto* session = frame.body_as_SessionInfo()) {
        sum = touch(view(session->name())) + touch(view(session->cwd()));
    } else if (const auto* port = frame.body_as_PortInfo()) {
        sum = touch(view(port->address())) + touch(view(port->process())) + port->port();
    }
    return sum;
}

// Requests of version 3: what the agent reads.
size_t touch_request(const wire::Frame& frame) {
    if (const auto* body = frame.body_as_SetEnvironment())
        return touch(body->set()) + touch(body->unset());
    if (const auto* body = frame.body_as_Stat())
        return touch(view(body->path())) + body->follow();
    if (const auto* body = frame.body_as_FileRead())
        return touch(view(body->path())) + body->offset() + body->length();
    if (const auto* body = frame.body_as_FileWrite())
        return touch(view(body->path())) + touch(view(body->user())) + body->mode();
    if (const auto* body = frame.body_as_List())
        return touch(view(body->path())) + body->entries_max();
    if (const auto* body = frame.body_as_Move())
        return touch(view(body->from())) + touch(view(body->to()));
    if (const auto* body = frame.body_as_Symlink())
        return touch(view(body->path())) + touch(view(body->target()));
    if (const auto* body = frame.body_as_HardLink())
        return touch(view(body->path())) + touch(view(body->target()));
    if (const auto* body = frame.body_as_ProcessStart())
        return touch(*body->exec()) + touch(view(body->name())) + body->log_bytes_max();
    if (const auto* body = frame.body_as_WaitPort())
        return touch(view(body->path())) + touch(view(body->name())) + body->port();
    if (const auto* body = frame.body_as_WaitLog())
        return touch(view(body->pattern())) + touch(view(body->name())) + body->from();
    if (const auto* body = frame.body_as_SessionCreate())
        return touch(view(body->name())) + touch(body->env()) + touch(view(body->shell()));
    return touch_answer(frame);
}

// Every field that either side reads.
size_t touch(const wire::Frame& frame) {
    if (const auto* body = frame.body_as_Exec())
        return touch(*body);
    if (const auto* body = frame.body_as_Identity()) {
        size_t sum = touch(view(body->hostname())) + touch(view(body->machine_id())) +
                     touch(view(body->entropy())) + body->wall_clock_ns() + touch(body->env());
        if (const auto* network = body->network())
            sum += touch(view(network->mac())) + touch(view(network->address())) +
                   touch(view(network->gateway())) + touch(network->dns());
        return sum;
    }
    if (const auto* body = frame.body_as_StdinData())
        return touch(view(body->bytes())) + body->eof();
    if (const auto* body = frame.body_as_Output())
        return touch(view(body->bytes())) + body->fd();
    if (const auto* body = frame.body_as_Error())
        return touch(view(body->message())) + static_cast<size_t>(spore::from_wire(body->code()));
    if (const auto* body = frame.body_as_StartFailed())
        return touch(view(body->message())) + body->exit_status();
    if (const auto* body = frame.body_as_HelloReply())
        return touch(view(body->agent_version())) + touch(view(body->boot_id())) + body->version();
    if (const auto* body = frame.body_as_Exited())
        return touch(*body);
    if (const auto* body = frame.body_as_Credit())
        return body->bytes() + body->fd();
    return frame.stream() + touch_request(frame);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    auto input = std::as_bytes(std::span(data, size));
    size_t piece = size == 0 ? 1 : data[0] * 16u + 1;
    spore::FrameReader reader;
    while (!input.empty()) {
        const auto room = reader.room();
        const size_t count = std::min({room.size(), input.size(), piece});
        std::copy_n(input.begin(), count, room.begin());
        reader.received(count);
        input = input.subspan(count);
        while (true) {
            const auto frame = reader.next();
            if (!frame)
                return 0;
            if (*frame == nullptr)
                break;
            // Read, and not optimized away.
            const size_t sum = touch(**frame);
            asm volatile("" : : "r"(sum));
        }
    }
    return 0;
}
