#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "agent/users.h"
#include "schema/frame.h"

namespace spore {

using StringVector = flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>;

// The strings of a frame, copied. Errors invalid_argument: a NUL within one; more in sum than a
// frame holds (many entries of a hostile frame may point to one string). `what` names them there.
Result<std::vector<std::string>> copy_strings(const StringVector* strings, std::string_view what);

// The variables of a command, by name.
class Environment {
  public:
    // "NAME=value". Errors invalid_argument: no name.
    Status set(std::string_view assignment);
    void set(std::string_view name, std::string_view value);
    void unset(std::string_view name);
    // Empty if it is not set.
    std::string_view get(std::string_view name) const;
    std::vector<std::string> assignments() const;

  private:
    std::map<std::string, std::string, std::less<>> variables_;
};

// PATH and TERM, which every command has unless its caller says otherwise.
Environment default_environment();

// HOME, USER, LOGNAME and SHELL of a user.
void set_user_variables(Environment& environment, const User& user);

}  // namespace spore
