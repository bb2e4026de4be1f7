// A client that goes in the middle of a request, of every kind that the agent serves: while it is
// sent, before and after its first answer. Whatever it was, the agent has what it had.

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "agent/request.h"
#include "tests/unit/agent/files_rig.h"

namespace spore {
namespace {

constexpr uint32_t kStream = 9;
constexpr uint32_t kCredit = 1 << 16;

// What requests can be about: files, and a process and a session of another client.
struct Whose {
    std::string work;
    std::string process = "process", session = "session";
};

using Fbb = flatbuffers::FlatBufferBuilder;

auto bytes(Fbb& buffer, const std::string& text) {
    return buffer.CreateVector(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

auto exec_of(Fbb& buffer, const std::string& script, const char* session = nullptr) {
    const auto argv = session == nullptr ? buffer.CreateVectorOfStrings({"/bin/sh", "-c", script})
                                         : buffer.CreateVectorOfStrings({script});
    const auto name = session == nullptr ? 0 : buffer.CreateString(session);
    return wire::CreateExec(buffer, argv, 0, 0, false, 0, 0, session == nullptr, 0, kCredit,
                            kCredit, 0, name);
}

// Sends one request that goes on as long as its kind can, on kStream.
using Send = void (*)(RawClient& client, const Whose& place);
using wire::Body;

const std::map<Body, Send> kCommandRequests = {
    {Body::Ping, [](RawClient& c, const Whose&) { c.send(kStream, wire::CreatePing(c.buffer())); }},
    {Body::Exec,
     [](RawClient& c, const Whose&) {
         c.send(kStream, exec_of(c.buffer(), "echo up; exec sleep 1000"));
     }},
    {Body::Identity,
     [](RawClient& c, const Whose&) {
         const auto name = c.buffer().CreateString("host");
         const auto machine = c.buffer().CreateString(std::string(32, 'a'));
         const auto entropy = bytes(c.buffer(), std::string(64, 'e'));
         c.send(kStream, wire::CreateIdentity(c.buffer(), name, machine, entropy));
     }},
    {Body::PrepareSnapshot,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreatePrepareSnapshot(c.buffer())); }},
    {Body::PowerOff,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreatePowerOff(c.buffer())); }},
    {Body::GrowRoot,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreateGrowRoot(c.buffer())); }},
    {Body::SetClock,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreateSetClock(c.buffer(), 1)); }},
    {Body::SetEnvironment,
     [](RawClient& c, const Whose&) {
         const auto set = c.buffer().CreateVectorOfStrings({"A=b"});
         c.send(kStream, wire::CreateSetEnvironment(c.buffer(), set));
     }},
    {Body::SetLimits,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreateSetLimits(c.buffer())); }},
    {Body::GetUsage,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreateGetUsage(c.buffer())); }},
    {Body::SessionCreate,
     [](RawClient& c, const Whose&) {
         const auto name = c.buffer().CreateString("another");
         c.send(kStream, wire::CreateSessionCreate(c.buffer(), name));
     }},
    {Body::SessionList,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreateSessionList(c.buffer())); }},
    {Body::SessionDelete,
     [](RawClient& c, const Whose& place) {
         const auto name = c.buffer().CreateString(place.session);
         c.send(kStream, wire::CreateSessionDelete(c.buffer(), name));
     }},
    {Body::PortList,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreatePortList(c.buffer())); }},
};

const std::map<Body, Send> kFileRequests = {
    {Body::Stat,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/file");
         c.send(kStream, wire::CreateStat(c.buffer(), path));
     }},
    {Body::FileRead,  // more than its credit
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/file");
         c.send(kStream, wire::CreateFileRead(c.buffer(), path, 0, 0, kCredit));
     }},
    {Body::FileWrite,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/file");
         c.send(kStream, wire::CreateFileWrite(c.buffer(), path));
         const auto piece = bytes(c.buffer(), "half of it");
         c.send(kStream, wire::CreateFileData(c.buffer(), piece));
     }},
    {Body::List,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work);
         c.send(kStream, wire::CreateList(c.buffer(), path, true, true, 0, 1));
     }},
    {Body::Remove,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/tree");
         c.send(kStream, wire::CreateRemove(c.buffer(), path, true));
     }},
    {Body::Move,
     [](RawClient& c, const Whose& place) {
         const auto from = bytes(c.buffer(), place.work + "/tree");
         const auto to = bytes(c.buffer(), place.work + "/moved");
         c.send(kStream, wire::CreateMove(c.buffer(), from, to));
     }},
    {Body::MakeDirectory,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/made");
         c.send(kStream, wire::CreateMakeDirectory(c.buffer(), path));
     }},
    {Body::Symlink,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/link");
         const auto target = bytes(c.buffer(), "file");
         c.send(kStream, wire::CreateSymlink(c.buffer(), path, target));
     }},
    {Body::HardLink,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/name");
         const auto target = bytes(c.buffer(), place.work + "/file");
         c.send(kStream, wire::CreateHardLink(c.buffer(), path, target));
     }},
    {Body::SetAttributes,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work + "/file");
         c.send(kStream, wire::CreateSetAttributes(c.buffer(), path, false, true, 0600));
     }},
    {Body::Watch,
     [](RawClient& c, const Whose& place) {
         const auto path = bytes(c.buffer(), place.work);
         c.send(kStream, wire::CreateWatch(c.buffer(), path, true, kCredit));
     }},
};

// By name, of the process that writes and reads and never ends.
template <typename Make>
void send_named(RawClient& c, const Whose& place, Make make) {
    const auto name = c.buffer().CreateString(place.process);
    c.send(kStream, make(c.buffer(), name));
}

const std::map<Body, Send> kProcessRequests = {
    {Body::ProcessStart,
     [](RawClient& c, const Whose&) {
         const auto exec = exec_of(c.buffer(), "exit 0");
         c.send(kStream, wire::CreateProcessStart(c.buffer(), exec));
     }},
    {Body::ProcessList,
     [](RawClient& c, const Whose& place) {
         send_named(c, place,
                    [](auto& b, auto name) { return wire::CreateProcessList(b, 0, name); });
     }},
    {Body::ProcessLogs,
     [](RawClient& c, const Whose& place) {
         send_named(c, place, [](auto& b, auto name) {
             return wire::CreateProcessLogs(b, 0, name, 0, true, 1);
         });
     }},
    {Body::ProcessWait,
     [](RawClient& c, const Whose& place) {
         send_named(c, place,
                    [](auto& b, auto name) { return wire::CreateProcessWait(b, 0, name); });
     }},
    {Body::ProcessSignal,
     [](RawClient& c, const Whose& place) {
         send_named(c, place, [](auto& b, auto name) {
             return wire::CreateProcessSignal(b, 0, name, SIGCONT);
         });
     }},
    {Body::ProcessRemove,
     [](RawClient& c, const Whose& place) {
         send_named(c, place,
                    [](auto& b, auto name) { return wire::CreateProcessRemove(b, 0, name); });
     }},
    {Body::ProcessInput,
     [](RawClient& c, const Whose& place) {
         send_named(c, place,
                    [](auto& b, auto name) { return wire::CreateProcessInput(b, 0, name); });
         const auto piece = bytes(c.buffer(), "half a l");
         c.send(kStream, wire::CreateStdinData(c.buffer(), piece));
     }},
    {Body::WaitPort,
     [](RawClient& c, const Whose&) { c.send(kStream, wire::CreateWaitPort(c.buffer(), 1)); }},
    {Body::WaitLog,
     [](RawClient& c, const Whose& place) {
         const auto name = c.buffer().CreateString(place.process);
         const auto pattern = bytes(c.buffer(), "never");
         c.send(kStream, wire::CreateWaitLog(c.buffer(), 0, name, pattern));
     }},
};

std::vector<std::pair<Body, Send>> all_requests() {
    std::vector<std::pair<Body, Send>> all;
    for (const auto* part : {&kCommandRequests, &kFileRequests, &kProcessRequests})
        all.insert(all.end(), part->begin(), part->end());
    return all;
}

class Disconnect : public FilesRig, public testing::WithParamInterface<std::pair<Body, Send>> {
  protected:
    void SetUp() override {
        FilesRig::SetUp();
        place.work = work;
        put("file", pattern(4 * kCredit, 1));
        for (int each = 0; each < 50; ++each) {
            fs::create_directories(at("tree/" + std::to_string(each)));
            put("tree/" + std::to_string(each) + "/file", "x");
        }
        RawClient client(agent.connect_socket());
        client.greet();
        const auto name = client.buffer().CreateString(place.process);
        const auto exec = exec_of(client.buffer(), "while read x; do echo $x; done");
        client.send(2, wire::CreateProcessStart(client.buffer(), exec, name));
        ASSERT_NE(client.next()->body_as_ProcessStarted(), nullptr);
        const auto session = client.buffer().CreateString(place.session);
        client.send(3, wire::CreateSessionCreate(client.buffer(), session));
        const wire::Frame* frame = client.next();
        while (frame != nullptr && frame->stream() != 3)
            frame = client.next();
        ASSERT_NE(frame, nullptr);
        ASSERT_NE(frame->body_as_Done(), nullptr);
    }

    // Children of the agent that run, zombies too.
    size_t children() const {
        std::ifstream file("/proc/" + std::to_string(agent.pid()) + "/task/" +
                           std::to_string(agent.pid()) + "/children");
        return static_cast<size_t>(
            std::distance(std::istream_iterator<int>(file), std::istream_iterator<int>()));
    }
    // As many descriptors and children as before, or fewer: a session may have been deleted.
    void expect_settled(size_t descriptors, size_t processes) {
        const auto deadline = soon();
        while (agent_descriptors() > descriptors || children() > processes) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline)
                << agent_descriptors() << " descriptors, " << descriptors << " before; "
                << children() << " children, " << processes << " before";
            ::usleep(1000);
        }
        ASSERT_TRUE(agent.alive());
        ASSERT_TRUE(connection->ping(soon()));
    }

    Whose place;
};

// The bytes that one request is on the wire, as they would come.
std::string on_the_wire(Send send, const Whose& place) {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd other(ends[1]);
    {
        RawClient client{UniqueFd(ends[0])};
        send(client, place);
    }
    std::string all(1 << 20, '\0');
    const ssize_t count = ::recv(other.get(), all.data(), all.size(), MSG_WAITALL);
    all.resize(static_cast<size_t>(std::max<ssize_t>(count, 0)));
    return all;
}

TEST_P(Disconnect, LeavesNothing) {
    const auto& [kind, send] = GetParam();
    // What stays for good by its nature: a session, and until it is found ended a process.
    const size_t more = kind == Body::SessionCreate ? 8 : 0;
    const size_t more_children = kind == Body::SessionCreate ? 1 : 0;
    const size_t descriptors = agent_descriptors() + more;
    const size_t processes = children() + more_children;
    const std::string whole = on_the_wire(send, place);
    ASSERT_FALSE(whole.empty());
    for (const size_t part : {size_t{1}, size_t{3}, whole.size() / 2, whole.size() - 1}) {
        RawClient client(agent.connect_socket());
        client.greet();
        client.send_bytes(std::as_bytes(std::span(whole)).first(part));
    }
    expect_settled(descriptors, processes);
    {
        RawClient client(agent.connect_socket());
        client.greet();
        send(client, place);
    }
    expect_settled(descriptors, processes);
    {
        RawClient client(agent.connect_socket());
        client.greet();
        send(client, place);
        // The others wait for what does not come.
        const std::set<Body> silent = {Body::WaitPort, Body::WaitLog, Body::ProcessWait,
                                       Body::ProcessLogs};
        if (!silent.contains(kind)) {
            EXPECT_NE(client.next(), nullptr);
        }
        ::shutdown(client.fd(), SHUT_WR);  // half of it, then all
    }
    expect_settled(descriptors, processes);
    if (kind == Body::FileWrite) {
        EXPECT_EQ(got("file"), pattern(4 * kCredit, 1)) << "as it was";
        EXPECT_EQ(names().size(), 2u) << "nothing beside it";
    }
}

std::string name_of(const testing::TestParamInfo<std::pair<Body, Send>>& info) {
    return wire::EnumNameBody(info.param.first);
}
INSTANTIATE_TEST_SUITE_P(Every, Disconnect, testing::ValuesIn(all_requests()), name_of);

TEST(DisconnectTable, TriesEveryKindThatTheAgentServes) {
    std::set<Body> tried;
    for (const auto& [kind, send] : all_requests())
        tried.insert(kind);
    for (const Body body : wire::EnumValuesBody()) {
        const RequestKind* kind = find_request(body);
        if (kind != nullptr && kind->serve != nullptr) {
            EXPECT_TRUE(tried.contains(body)) << wire::EnumNameBody(body);
        }
    }
}

}  // namespace
}  // namespace spore
