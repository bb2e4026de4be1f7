// Processes that no connection owns: as a client sees them on the wire, and through AgentProcesses.

#include <fcntl.h>

#include <filesystem>

#include "agent/server.h"
#include "hypervisor/base/agent_limits.h"
#include "tests/unit/agent/process_fixture.h"

namespace spore {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

struct StartOptions {
    std::string name;
    bool with_stdin = false;
    uint64_t log_bytes_max = 0;
};

class ProcessFrames : public testing::Test {
  protected:
    void SetUp() override { client.greet(); }

    void send_start(uint32_t stream, const std::vector<std::string>& argv, StartOptions options) {
        auto& buffer = client.buffer();
        const auto words = buffer.CreateVectorOfStrings(argv);
        const auto exec =
            wire::CreateExec(buffer, words, 0, 0, false, 0, 0, options.with_stdin, 0, 0, 0);
        const auto name = buffer.CreateString(options.name);
        client.send(stream, wire::CreateProcessStart(buffer, exec, name, options.log_bytes_max));
    }
    // Its ID.
    uint32_t start(const std::string& script, StartOptions options = {}) {
        send_start(900, {"sh", "-c", script}, options);
        const auto* frame = client.next();
        const auto* started = frame == nullptr ? nullptr : frame->body_as_ProcessStarted();
        if (started == nullptr) {
            ADD_FAILURE() << "not started";
            return 0;
        }
        EXPECT_GT(started->pid(), 0);
        const uint32_t id = started->id();
        EXPECT_NE(client.next()->body_as_Done(), nullptr);
        return id;
    }
    void expect_error(wire::ErrorCode code, const std::string& words = "") {
        const auto* frame = client.next();
        ASSERT_NE(frame, nullptr);
        ASSERT_NE(frame->body_as_Error(), nullptr) << wire::EnumNameBody(frame->body_type());
        EXPECT_EQ(frame->body_as_Error()->code(), code) << frame->body_as_Error()->message()->str();
        EXPECT_THAT(frame->body_as_Error()->message()->str(), HasSubstr(words));
    }
    const wire::Exited* wait(uint32_t id) {
        client.send(901, wire::CreateProcessWait(client.buffer(), id));
        const auto* frame = client.next();
        return frame == nullptr ? nullptr : frame->body_as_Exited();
    }
    // All that is kept.
    std::string log(uint32_t id, bool follow = false) {
        client.send(902, wire::CreateProcessLogs(client.buffer(), id, 0, 0, follow, 1 << 30));
        std::string text;
        while (const auto* frame = client.next()) {
            const auto* record = frame->body_as_LogRecord();
            if (record == nullptr) {
                EXPECT_NE(frame->body_as_Done(), nullptr);
                break;
            }
            const auto bytes = view(record->bytes());
            text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        }
        return text;
    }

    RunningAgent agent;
    RawClient client{agent.connect_socket()};
};

TEST_F(ProcessFrames, KeepsItsOutputAndItsEnd) {
    const uint32_t id = start("echo out; echo err >&2; exit 3", {.name = "one"});
    const auto* end = wait(id);
    ASSERT_NE(end, nullptr);
    EXPECT_EQ(end->exit_status(), 3);
    EXPECT_GT(end->peak_memory_bytes(), 100'000u);
    const std::string text = log(id);
    EXPECT_THAT(text, HasSubstr("out\n"));
    EXPECT_THAT(text, HasSubstr("err\n"));

    client.send(2, wire::CreateProcessList(client.buffer()));
    const auto* info = client.next()->body_as_ProcessInfo();
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->id(), id);
    EXPECT_EQ(view(info->name()), "one");
    EXPECT_EQ(info->pid(), 0);
    EXPECT_EQ(info->state(), wire::ProcessState::ended);
    EXPECT_EQ(info->argv()->Get(2)->str(), "echo out; echo err >&2; exit 3");
    EXPECT_GT(info->started_ns(), 1'500'000'000'000'000'000);
    EXPECT_GE(info->ended_ns(), info->started_ns());
    EXPECT_EQ(info->exited()->exit_status(), 3);
    EXPECT_EQ(info->log_bytes(), 8u);
    EXPECT_NE(client.next()->body_as_Done(), nullptr);
}

TEST_F(ProcessFrames, OutlivesItsClient) {
    const uint32_t id =
        start("while ! test -e " + agent.directory() + "/go; do sleep 0.01; done; echo seen");
    client = RawClient(agent.connect_socket());
    client.greet();
    ASSERT_EQ(::system(("touch " + agent.directory() + "/go").c_str()), 0);
    EXPECT_EQ(log(id, true), "seen\n");
    ASSERT_NE(wait(id), nullptr);
}

TEST_F(ProcessFrames, SaysWhatCannotBeStarted) {
    send_start(2, {"no-such-program-here"}, {});
    const auto* failed = client.next()->body_as_StartFailed();
    ASSERT_NE(failed, nullptr);
    EXPECT_EQ(failed->exit_status(), 127);
    send_start(2, {}, {});
    expect_error(wire::ErrorCode::invalid_argument, "argv");
    send_start(2, {"true"}, {.name = "no/name"});
    expect_error(wire::ErrorCode::invalid_argument, "process name 'no/name'");
    send_start(2, {"true"}, {.log_bytes_max = 1});
    expect_error(wire::ErrorCode::invalid_argument, "log of 1 bytes");
    client.send(2, wire::CreateProcessList(client.buffer()));
    EXPECT_NE(client.next()->body_as_Done(), nullptr) << "there is none";
}

class Processes : public ProcessFixture {};

TEST_F(Processes, AreFollowedFromAnyPlace) {
    const std::string fifo = agent.directory() + "/fifo";
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    const ProcessName process =
        start_script("echo one; echo two >&2; read line <" + fifo + "; echo three; exit 7");
    // Both have come before it goes on; which of them first is nobody's to say.
    wait_for_logs(process, 8);
    std::jthread going([&] {
        UniqueFd end(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
        EXPECT_EQ(::write(end.get(), "go\n", 3), 3);
    });
    uint64_t last = 0;
    std::string texts[3];
    const Status done = processes->logs(
        process, {.follow = true},
        [&](const ProcessOutput& output) {
            EXPECT_EQ(output.sequence, last + 1);
            EXPECT_EQ(output.dropped, 0u);
            EXPECT_GT(output.time_ns, 1'500'000'000'000'000'000);
            last = output.sequence;
            return collect(texts[output.fd], output.bytes);
        },
        soon());
    EXPECT_TRUE(done) << done.error().message;
    EXPECT_EQ(texts[1], "one\nthree\n");
    EXPECT_EQ(texts[2], "two\n");
    EXPECT_EQ(wait(process).exit_status, 7);
    std::string rest;
    EXPECT_TRUE(processes->logs(
        process, {.from = last},
        [&](const ProcessOutput& output) { return collect(rest, output.bytes); }, soon()));
    EXPECT_EQ(rest, "three\n");
}

TEST_F(Processes, KeepSoMuchOfTheirOutputAndNoMore) {
    ProcessSpec spec = {.command = shell("head -c 10000000 /dev/zero; echo end"),
                        .log_bytes_max = limits::kProcessLogBytesMin};
    const ProcessName process = start(spec);
    EXPECT_EQ(wait(process).exit_status, 0);
    const auto status = processes->show(process, soon());
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_LE(status->log_bytes, limits::kProcessLogBytesMin);
    EXPECT_EQ(status->log_bytes + status->log_dropped, 10'000'004u);
    uint64_t dropped = 0, kept = 0;
    EXPECT_TRUE(processes->logs(
        process, {},
        [&](const ProcessOutput& output) -> Status {
            dropped += output.dropped;
            kept += output.bytes.size();
            return {};
        },
        soon()));
    EXPECT_EQ(dropped, status->log_dropped);
    EXPECT_EQ(kept, status->log_bytes);
    EXPECT_THAT(logs(process), HasSubstr("end\n"));
}

TEST_F(Processes, DoNotWaitForThoseWhoReadTheirLogs) {
    const ProcessName process = start_script("head -c 3000000 /dev/zero; echo end");
    std::atomic<bool> ended = false;
    std::string all;
    // A reader that holds up its connection until the process has ended.
    auto other = AgentConnection::over(agent.client());
    ASSERT_TRUE(other);
    std::jthread reading([&] {
        EXPECT_TRUE(AgentProcesses(**other).logs(
            process, {.follow = true},
            [&](const ProcessOutput& output) {
                while (!ended)
                    ::usleep(1000);
                return collect(all, output.bytes);
            },
            soon()));
    });
    EXPECT_EQ(wait(process).exit_status, 0);
    ended = true;
    reading.join();
    EXPECT_THAT(all, HasSubstr("end\n"));
}

TEST_F(Processes, HaveNamesOfTheirOwnWhileTheyRun) {
    start({.command = shell("sleep 1000"), .name = "server"});
    EXPECT_THAT(why(processes->start({.command = shell("true"), .name = "server"}, soon())),
                StartsWith("already_exists: process name 'server'"));
    const ProcessName server{.id = 0, .name = "server"};
    EXPECT_TRUE(processes->signal(server, SIGTERM, false, soon()));
    EXPECT_EQ(wait(server).signal, SIGTERM);
    EXPECT_THAT(why(processes->signal(server, SIGTERM, false, soon())),
                StartsWith("unavailable: process 1: has ended"));
    const ProcessName second = start({.command = shell("exit 4"), .name = "server"});
    EXPECT_EQ(wait(second).exit_status, 4);
    EXPECT_EQ(wait(server).exit_status, 4) << "the last of them";
    EXPECT_THAT(why(processes->wait({.id = 99, .name = {}}, 0ms, soon())),
                StartsWith("not_found: process 99"));
    EXPECT_THAT(why(processes->wait({.id = 0, .name = "other"}, 0ms, soon())),
                StartsWith("not_found: process 'other'"));
}

TEST_F(Processes, AreForgottenWhenTheyHaveEnded) {
    const ProcessName process = start_script("sleep 1000");
    EXPECT_THAT(why(processes->remove(process, soon())),
                StartsWith("unavailable: process 1: still runs"));
    EXPECT_THAT(why(processes->wait(process, 20ms, soon())),
                StartsWith("timeout: process 1: still runs"));
    ASSERT_TRUE(processes->signal(process, SIGKILL, false, soon()));
    wait(process);
    EXPECT_TRUE(processes->remove(process, soon()));
    EXPECT_THAT(why(processes->show(process, soon())), StartsWith("not_found"));
    EXPECT_EQ(processes->list(soon())->size(), 0u);
}

// Also: more than may be kept are started one after another.
TEST_F(Processes, AreBoundedInNumber) {
    const ProcessName kept = start_script("sleep 1000");
    for (uint32_t i = 0; i < limits::kProcessesMax + 20; ++i)
        wait(start({.command = {.argv = {"true"}}}));
    const auto all = processes->list(soon());
    ASSERT_TRUE(all) << all.error().message;
    EXPECT_EQ(all->size(), limits::kProcessesMax);
    EXPECT_EQ(all->front().id, kept.id);
    EXPECT_FALSE(all->front().end);
    EXPECT_EQ(all->back().id, limits::kProcessesMax + 21);
    // Logs of the largest: their memory is promised when they start.
    const ProcessSpec large = {.command = shell("sleep 1000"),
                               .log_bytes_max = limits::kProcessLogBytesMax};
    for (int i = 0; i < 3; ++i)
        start(large);
    EXPECT_THAT(why(processes->start(large, soon())),
                StartsWith("resource_exhausted: processes: "));
}

TEST_F(Processes, HaveOneClientOnTheirStdin) {
    const ProcessName process = start({.command = {.argv = {"cat"}}, .with_stdin = true});
    const std::string content = pattern(1 << 20, 5);
    UniqueFd file(
        ::open(write_file(agent.directory() + "/in", content).c_str(), O_RDONLY | O_CLOEXEC));
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]), out(ends[1]);
    std::jthread first([&] { EXPECT_TRUE(processes->input(process, in.get(), false, soon())); });
    ASSERT_EQ(::write(out.get(), "first\n", 6), 6);
    wait_for_logs(process, 6);
    EXPECT_THAT(why(processes->input(process, file.get(), true, soon())),
                HasSubstr("another client has it"));
    out.reset();
    first.join();
    const auto fed = processes->input(process, file.get(), true, soon());
    EXPECT_TRUE(fed) << fed.error().message;
    EXPECT_EQ(wait(process).exit_status, 0);
    const auto status = processes->show(process, soon());
    EXPECT_EQ(status->log_bytes + status->log_dropped, content.size() + 6);
    EXPECT_THAT(why(processes->input(process, file.get(), true, soon())), HasSubstr("is closed"));
}

TEST_F(Processes, SayThatTheyHaveClosedTheirStdin) {
    const ProcessName process =
        start({.command = shell("exec <&-; echo closed; sleep 1000"), .with_stdin = true});
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]), out(ends[1]);
    const auto fed = processes->input(process, in.get(), true, soon());
    // It was closed before it was asked for, or after.
    if (fed)
        EXPECT_FALSE(*fed);
    else
        EXPECT_THAT(why(fed), HasSubstr("is closed"));
    processes->signal(process, SIGKILL, false, soon());
}

TEST_F(Processes, HaveATerminalIfAsked) {
    ProcessSpec spec = {.command = shell("stty size; tty >/dev/null && echo terminal")};
    spec.command.pty = TerminalSize{.rows = 33, .columns = 77};
    const ProcessName process = start(spec);
    EXPECT_EQ(wait(process).exit_status, 0);
    EXPECT_EQ(logs(process), "33 77\r\nterminal\r\n");
}

TEST_F(Processes, WithoutControlGroupsHaveNoDescendants) {
    const ProcessName process = start_script("sleep 1000");
    EXPECT_THAT(why(processes->signal(process, SIGKILL, true, soon())),
                StartsWith("host_unsupported: process 1"));
    processes->signal(process, SIGKILL, false, soon());
    EXPECT_EQ(wait(process).signal, SIGKILL);
}

TEST_F(Processes, AndTheirOutputOutliveTheConnection) {
    const ProcessName process = start_script("echo begun; sleep 0.1; echo done");
    std::jthread following([&] { logs(process, true); });
    following.join();
    connection.reset();
    connect();
    EXPECT_EQ(wait(process).exit_status, 0);
    EXPECT_EQ(logs(process), "begun\ndone\n");
}

// ---- With control groups, as in a guest

// Where this machine has the hierarchy of cgroup v2; empty: nowhere.
std::string cgroup2_mount() {
    std::ifstream mounts("/proc/self/mounts");
    std::string source, place, type, rest;
    while (mounts >> source >> place >> type && std::getline(mounts, rest)) {
        if (type == "cgroup2")
            return place;
    }
    return {};
}

class GroupSystem : public DetachedSystem {
  public:
    explicit GroupSystem(const std::string& path)
        : group_(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {}
    int command_cgroup() const override { return group_.get(); }

  private:
    UniqueFd group_;
};

class GroupedProcesses : public testing::Test {
  protected:
    void SetUp() override {
        const std::string mount = cgroup2_mount();
        group = mount + "/spore-process-test-" + std::to_string(::getpid());
        if (mount.empty() || ::mkdir(group.c_str(), 0755) != 0)
            GTEST_SKIP() << "no cgroup v2 that may be written here: " << mount;
        agent.emplace([&](const std::string& path) {
            GroupSystem system(group);
            auto server = std::move(*Server::create(system));
            if (server->listen_unix(path))
                (void)server->run();
        });
        auto made = AgentConnection::over(agent->client());
        ASSERT_TRUE(made) << made.error().message;
        connection = std::move(*made);
        processes.emplace(*connection);
    }
    void TearDown() override {
        connection.reset();
        if (!agent)
            return;
        agent.reset();
        std::ofstream(group + "/cgroup.kill") << "1";
        const auto deadline = soon();
        while (std::filesystem::exists(group) && std::chrono::steady_clock::now() < deadline) {
            std::error_code ignored;
            for (const auto& entry : std::filesystem::directory_iterator(group, ignored)) {
                if (entry.is_directory())
                    ::rmdir(entry.path().c_str());
            }
            ::rmdir(group.c_str());
        }
        EXPECT_FALSE(std::filesystem::exists(group)) << group;
    }
    // The PIDs that a script has written, one file each.
    std::vector<pid_t> pids(size_t count) {
        std::vector<pid_t> found;
        const auto deadline = soon();
        while (found.size() < count && std::chrono::steady_clock::now() < deadline) {
            found.clear();
            for (size_t i = 1; i <= count; ++i) {
                pid_t pid = 0;
                std::ifstream file(agent->directory() + "/pid" + std::to_string(i));
                if (file >> pid)
                    found.push_back(pid);
            }
            ::usleep(1000);
        }
        return found;
    }
    // Whether nobody is left in a group: those who have no file to be known by come to their end,
    // too.
    static bool empties(const std::string& directory) {
        const auto deadline = soon();
        while (std::chrono::steady_clock::now() < deadline) {
            std::ifstream file(directory + "/cgroup.events");
            const std::string text((std::istreambuf_iterator<char>(file)), {});
            if (text.empty() || text.find("populated 0") != std::string::npos)
                return true;
            ::usleep(1000);
        }
        return false;
    }
    // One in a session of its own, one that is nobody's child, and one that ignores signals.
    std::string script() {
        const std::string pid = "> " + agent->directory() + "/pid";
        return "setsid sh -c 'echo $$ " + pid +
               "1; exec sleep 1000' & "
               "( ( sh -c 'echo $$ " +
               pid +
               "2; exec sleep 1000' & ) & ) ; "
               "( trap '' TERM; sh -c 'echo $$ " +
               pid +
               "3; sleep 1000; sleep 1000' ) & "
               "echo $$ " +
               pid + "4; ";
    }

    std::string group;
    std::optional<RunningAgent> agent;
    std::shared_ptr<AgentConnection> connection;
    std::optional<AgentProcesses> processes;
};

TEST_F(GroupedProcesses, AreKilledWithAllThatCameOfThem) {
    const auto started = processes->start({.command = shell(script() + "exec sleep 1000")}, soon());
    ASSERT_TRUE(started) << started.error().message;
    const auto all = pids(4);
    ASSERT_EQ(all.size(), 4u);
    const ProcessName process{.id = started->id, .name = {}};
    const Status killed = processes->signal(process, SIGKILL, true, soon());
    EXPECT_TRUE(killed) << killed.error().message;
    for (const pid_t pid : all)
        EXPECT_TRUE(ends(pid)) << pid;
    EXPECT_EQ(processes->wait(process, 0ms, soon())->signal, SIGKILL);
    EXPECT_TRUE(empties(group + "/process-1")) << "some are left";
    EXPECT_TRUE(processes->remove(process, soon()));
    EXPECT_FALSE(std::filesystem::exists(group + "/process-1"));
}

TEST_F(GroupedProcesses, LeaveDescendantsThatCanStillBeSignalled) {
    const auto started = processes->start({.command = shell(script() + "exit 3")}, soon());
    ASSERT_TRUE(started) << started.error().message;
    const ProcessName process{.id = started->id, .name = {}};
    EXPECT_EQ(processes->wait(process, 0ms, soon())->exit_status, 3);
    const auto all = pids(4);
    ASSERT_EQ(all.size(), 4u);
    for (size_t i = 0; i < 3; ++i)
        EXPECT_EQ(::kill(all[i], 0), 0) << "it goes on";
    EXPECT_TRUE(processes->signal(process, SIGTERM, true, soon()));
    EXPECT_TRUE(ends(all[0]));
    EXPECT_TRUE(ends(all[1]));
    EXPECT_EQ(::kill(all[2], 0), 0) << "it ignores SIGTERM";
    EXPECT_TRUE(processes->remove(process, soon()));
    EXPECT_TRUE(std::filesystem::exists(group + "/process-1")) << "somebody is in it";
    ::kill(all[2], SIGKILL);
    EXPECT_TRUE(ends(all[2]));
}

// Faster than a list of PIDs can be read.
TEST_F(GroupedProcesses, ThatForkAllTheTimeAreKilledToo) {
    const auto started = processes->start(
        {.command =
             shell("while :; do setsid sh -c 'sleep 0.01 & sleep 1000' & sleep 0.005; done")},
        soon());
    ASSERT_TRUE(started) << started.error().message;
    const ProcessName process{.id = started->id, .name = {}};
    const auto deadline = soon();
    size_t count = 0;
    while (count < 20 && std::chrono::steady_clock::now() < deadline) {
        std::ifstream file(group + "/process-1/cgroup.procs");
        count = static_cast<size_t>(std::count(std::istreambuf_iterator<char>(file), {}, '\n'));
        ::usleep(1000);
    }
    EXPECT_TRUE(processes->signal(process, SIGKILL, true, soon()));
    EXPECT_EQ(processes->wait(process, 0ms, soon())->signal, SIGKILL);
    EXPECT_TRUE(empties(group + "/process-1")) << "some are left";
}

}  // namespace
}  // namespace spore
