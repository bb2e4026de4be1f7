#pragma once

#include <sys/inotify.h>

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "hypervisor/base/limits.h"

namespace spore {

// Which inotify watch is of which directory: each by its name in the one above, so that moving one
// moves all that is in it.
class WatchTree {
  public:
    void clear() { nodes_.clear(); }
    void set_root(int watch) { nodes_[watch] = {-1, {}}; }
    bool has(int watch) const { return nodes_.contains(watch); }
    // It is `name` in `parent` now, wherever it was.
    void set(int watch, int parent, std::string name);
    void erase(int watch) { nodes_.erase(watch); }
    // -1: not in the tree. Looks through all of it.
    int find(int parent, std::string_view name) const;

    // `name` in the directory of `watch`, from the root; nothing for one that is not in the tree,
    // or above kPathBytesMax.
    std::optional<std::string> path(int watch, std::string_view name) const;
    // Takes `name` in `parent` out with all below it: their watches, to be removed.
    std::vector<int> take(int parent, std::string_view name);

  private:
    struct Node {
        int parent;
        std::string name;
    };

    // Whether `watch` is `above` or within it.
    bool within(int watch, int above) const;

    std::unordered_map<int, Node> nodes_;
};

}  // namespace spore
