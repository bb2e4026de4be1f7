#include "bench/samples.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace spore::bench {

size_t Samples::count(const std::string& name) const {
    auto found = values_.find(name);
    return found == values_.end() ? 0 : found->second.size();
}

Status Samples::write(const std::filesystem::path& path) const {
    nlohmann::json document = {{"samples", values_}, {"skipped", skipped_}};
    std::ofstream file(path, std::ios::trunc);
    file << document.dump() << "\n";
    file.close();
    if (!file)
        return fail(Code::unavailable, path.string() + ": cannot be written");
    return {};
}

Samples& samples() {
    static Samples all;
    return all;
}

}  // namespace spore::bench
