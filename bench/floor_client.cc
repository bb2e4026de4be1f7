#include "bench/floor_client.h"

namespace spore::bench {

namespace {

Result<double> last_number_as_us(const std::string& line) {
    size_t space = line.rfind(' ');
    double ns = std::strtod(line.c_str() + (space == std::string::npos ? 0 : space + 1), nullptr);
    if (ns <= 0)
        return fail(Code::corrupt, "spore-floor: said '" + line + "'");
    return ns / 1000;
}

}  // namespace

Result<Floor> Floor::start(const std::string& program, unsigned memory_mib) {
    return Floor(TRY(Child::start({program, "--serve", "--memory", std::to_string(memory_mib)})));
}

Result<double> Floor::round() {
    TRY(child_.write("round\n"));
    auto line = TRY(child_.read_line());
    if (TRY(child_.read_line()) != "done")
        return fail(Code::corrupt, "spore-floor: did not say that it is done");
    return last_number_as_us(line);
}

Result<double> floor_at_once(const std::string& program, unsigned count) {
    auto child = TRY(Child::start(
        {program, "--at-once", std::to_string(count), "--processes", "--rounds", "1"}));
    return last_number_as_us(TRY(child.read_line()));
}

}  // namespace spore::bench
