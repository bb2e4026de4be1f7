// Which request is served by whom. Who serves another kind puts its function here, and its file
// into meson.build.

#include "agent/command.h"
#include "agent/files.h"
#include "agent/port_list.h"
#include "agent/process_streams.h"
#include "agent/request.h"
#include "agent/server.h"
#include "agent/sessions.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

using Served = Result<std::unique_ptr<Stream>>;

Served serve_ping(const Request& request) {
    request.connection.send(request.stream, wire::CreatePong(request.connection.buffer()));
    return nullptr;
}

Served serve_identity(const Request& request) {
    request.answer(request.server.guest().identify(request.body<wire::Identity>()));
    return nullptr;
}

Served serve_prepare_snapshot(const Request& request) {
    request.answer(request.server.guest().prepare_snapshot());
    return nullptr;
}

Served serve_set_clock(const Request& request) {
    request.answer(request.server.guest().set_clock(request.body<wire::SetClock>()));
    return nullptr;
}

Served serve_grow_root(const Request& request) {
    request.answer(request.server.guest().grow_root(request.body<wire::GrowRoot>()));
    return nullptr;
}

Served serve_power_off(const Request& request) {
    request.answer(request.server.request_power_off());
    return nullptr;
}

Served serve_set_environment(const Request& request) {
    request.answer(request.server.guest().set_environment(request.body<wire::SetEnvironment>()));
    return nullptr;
}

Served serve_set_limits(const Request& request) {
    request.answer(request.server.guest().set_limits(request.body<wire::SetLimits>()));
    return nullptr;
}

Served serve_get_usage(const Request& request) {
    const GuestUsage usage = TRY(request.server.guest().usage());
    const Processes::Kept kept = request.server.processes().kept();
    request.connection.send(
        request.stream,
        wire::CreateUsage(request.connection.buffer(), usage.used.processes, usage.bound.processes,
                          usage.used.memory_bytes, usage.bound.memory_bytes, usage.root_bytes,
                          usage.root_bytes_used, usage.open_files, usage.open_files_max,
                          kept.processes, limits::kProcessesMax, kept.output_bytes, kept.reserved,
                          limits::kProcessLogsBytesMax));
    return nullptr;
}

using wire::Body;
constexpr RequestKind kRequests[] = {
    {Body::Ping, serve_ping, true},
    {Body::Exec, serve_exec},
    {Body::Identity, serve_identity, true},
    {Body::PrepareSnapshot, serve_prepare_snapshot, true},
    {Body::PowerOff, serve_power_off, true},
    {Body::GrowRoot, serve_grow_root},
    {Body::SetClock, serve_set_clock},
    {Body::SetEnvironment, serve_set_environment},
    {Body::Stat, serve_stat},
    {Body::FileRead, serve_file_read},
    {Body::FileWrite, serve_file_write},
    {Body::List, serve_list},
    {Body::Remove, serve_remove},
    {Body::Move, serve_move},
    {Body::MakeDirectory, serve_make_directory},
    {Body::Symlink, serve_symlink},
    {Body::SetAttributes, serve_set_attributes},
    {Body::Watch, serve_watch},
    {Body::ProcessStart, serve_process_start},
    {Body::ProcessList, serve_process_list},
    {Body::ProcessLogs, serve_process_logs},
    {Body::ProcessWait, serve_process_wait},
    {Body::ProcessSignal, serve_process_signal},
    {Body::ProcessRemove, serve_process_remove},
    {Body::ProcessInput, serve_process_input},
    {Body::WaitPort, serve_wait_port},
    {Body::WaitLog, serve_wait_log},
    {Body::SessionCreate, serve_session_create},
    {Body::SessionList, serve_session_list},
    {Body::SessionDelete, serve_session_delete},
    {Body::PortList, serve_port_list},
    {Body::SetLimits, serve_set_limits},
    {Body::GetUsage, serve_get_usage},
    {Body::HardLink, serve_hard_link},
};

}  // namespace

void Request::answer(const Status& status) const {
    if (status)
        connection.send(stream, wire::CreateDone(connection.buffer()));
    else
        connection.send_error(stream, status.error());
}

const RequestKind* find_request(wire::Body body) {
    const auto* const found = std::ranges::find(kRequests, body, &RequestKind::body);
    return found == std::end(kRequests) ? nullptr : found;
}

}  // namespace spore
