#pragma once

#include <optional>
#include <string>

#include "agent/environment.h"
#include "agent/system.h"
#include "schema/frame.h"

namespace spore {

// What this guest is, and whether it may run anything. Fails closed: between prepare_snapshot and
// an identify that has succeeded whole, nothing is started and no command goes on, in the machine
// that was snapshotted and in every clone of it alike.
class Guest {
  public:
    explicit Guest(System& system) : system_(system) {}

    wire::State state() const { return state_; }
    // Error unavailable while sealed.
    Status may_run() const;
    std::string boot_id() { return system_.boot_id(); }
    // The variables that every command starts with.
    const Environment& environment() const { return environment_; }

    // Errors: invalid_argument, with nothing changed; or what a step failed with, and then the
    // agent is sealed.
    Status identify(const wire::Identity& identity);
    // Seals, freezes the commands that run, gives up what identity there is, and writes the disks
    // back.
    Status prepare_snapshot();
    int command_cgroup() const { return system_.command_cgroup(); }
    // Errors: unavailable while sealed.
    Status set_clock(const wire::SetClock& clock);
    Status grow_root(const wire::GrowRoot& request);
    // All of it or, with invalid_argument, nothing.
    Status set_environment(const wire::SetEnvironment& request);
    // Of all commands. Errors: unavailable while sealed, invalid_argument, host_unsupported.
    Status set_limits(const wire::SetLimits& request);
    Result<GuestUsage> usage() { return system_.usage(); }
    Status allow_power_off() { return system_.allow_power_off(); }

  private:
    System& system_;
    wire::State state_ = wire::State::ready;
    Environment environment_ = default_environment();
};

}  // namespace spore
