#include "agent/watch_tree.h"
#include "hypervisor/base/agent_limits.h"

namespace spore {

namespace {

// A path of kPathBytesMax has no more names. What has been missed may leave a circle behind.
constexpr int kWatchDepthMax = limits::kPathBytesMax / 2 + 1;

}  // namespace

void WatchTree::set(int watch, int parent, std::string name) {
    nodes_[watch] = {parent, std::move(name)};
}

std::optional<std::string> WatchTree::path(int watch, std::string_view name) const {
    std::string path(name);
    for (int depth = 0; depth < kWatchDepthMax; ++depth) {
        const auto found = nodes_.find(watch);
        if (found == nodes_.end())
            return std::nullopt;
        const Node& node = found->second;
        if (node.parent < 0)
            return path;
        path.insert(0, path.empty() ? node.name : node.name + "/");
        if (path.size() > limits::kPathBytesMax)
            return std::nullopt;
        watch = node.parent;
    }
    return std::nullopt;
}

bool WatchTree::within(int watch, int above) const {
    for (int depth = 0; depth < kWatchDepthMax && watch != above; ++depth) {
        const auto found = nodes_.find(watch);
        if (found == nodes_.end())
            return false;
        watch = found->second.parent;
    }
    return watch == above;
}

int WatchTree::find(int parent, std::string_view name) const {
    for (const auto& [watch, node] : nodes_) {
        if (node.parent == parent && node.name == name)
            return watch;
    }
    return -1;
}

std::vector<int> WatchTree::take(int parent, std::string_view name) {
    std::vector<int> taken;
    const int top = find(parent, name);
    if (top < 0)
        return taken;
    for (const auto& [watch, unused] : nodes_) {
        if (within(watch, top))
            taken.push_back(watch);
    }
    for (const int watch : taken)
        nodes_.erase(watch);
    return taken;
}

}  // namespace spore
