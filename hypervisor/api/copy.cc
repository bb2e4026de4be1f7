// Files' trees.

#include "hypervisor/api/files_impl.h"
#include "hypervisor/sandbox/agent_copy.h"

namespace spore {
inline namespace v1 {

namespace {

TreeCounts counts_of(const CopyCounts& counts) {
    return {.bytes = counts.bytes,
            .files = counts.files,
            .directories = counts.directories,
            .links = counts.links,
            .skipped = counts.skipped,
            .separate = counts.separate};
}

CopyOptions options_of(const TreeOptions& options, const Call& call) {
    CopyOptions wanted = {.on_progress = {},
                          .on_skipped = options.skipped,
                          .on_separate = {},
                          .user = options.user,
                          .bytes_max = options.bytes_max,
                          .deadline = call.deadline};
    if (options.progress)
        wanted.on_progress = [&options](const CopyCounts& counts) {
            options.progress(counts_of(counts));
        };
    return wanted;
}

// `copy` takes the connection that its streams are on.
template <typename Copy>
Result<TreeCounts> copied(Sandbox::Impl& sandbox, const Call& call, Copy copy) {
    return guarded([&] {
        return with_agent(sandbox, call, [&](AgentConnection&) -> Result<TreeCounts> {
            return counts_of(TRY(copy(TRY(sandbox.agent(call)))));
        });
    });
}

}  // namespace

Result<TreeCounts> Files::copy_in(const std::string& from_host, const std::string& to,
                                  const TreeOptions& options, const Call& call) const {
    return copied(*impl_->sandbox, call, [&](const std::shared_ptr<AgentConnection>& agent) {
        return spore::copy_in(agent, from_host, to, options_of(options, call));
    });
}

Result<TreeCounts> Files::copy_out(const std::string& from, const std::string& to_host,
                                   const TreeOptions& options, const Call& call) const {
    return copied(*impl_->sandbox, call, [&](const std::shared_ptr<AgentConnection>& agent) {
        return spore::copy_out(agent, from, to_host, options_of(options, call));
    });
}

Result<TreeCounts> Files::copy_across(const std::string& from, const Files& target,
                                      const std::string& to, const TreeOptions& options,
                                      const Call& call) const {
    return copied(*impl_->sandbox, call,
                  [&](const std::shared_ptr<AgentConnection>& agent) -> Result<CopyCounts> {
                      const auto other = TRY(target.impl_->sandbox->agent(call));
                      return spore::copy_across(agent, from, other, to, options_of(options, call));
                  });
}

}  // namespace v1
}  // namespace spore
