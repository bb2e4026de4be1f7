#include <spore/context.h>

#include "hypervisor/api/guard.h"
#include "hypervisor/api/impl.h"
#include "hypervisor/sandbox/code_context.h"

namespace spore {
inline namespace v1 {

struct CodeContext::Impl {
    std::shared_ptr<Sandbox::Impl> sandbox;
    std::string name;
    Language language;
};

namespace {

// The words are the same in the same order.
static_assert(static_cast<int>(ContextLanguage::javascript) ==
              static_cast<int>(CodeContext::Language::javascript));
static_assert(static_cast<int>(RunResult::End::error) ==
              static_cast<int>(CodeContext::Outcome::End::error));
static_assert(static_cast<int>(RunResult::End::timed_out) ==
              static_cast<int>(CodeContext::Outcome::End::timed_out));
static_assert(static_cast<int>(RunResult::End::lost) ==
              static_cast<int>(CodeContext::Outcome::End::lost));
static_assert(std::is_same_v<RichData, RichValue>);

CodeContext make_context(const std::shared_ptr<Sandbox::Impl>& sandbox, ContextInfo&& info) {
    return CodeContext(std::make_shared<const CodeContext::Impl>(CodeContext::Impl{
        sandbox, std::move(info.name), static_cast<CodeContext::Language>(info.language)}));
}

CodeContext::Outcome outcome_of(RunResult&& result) {
    CodeContext::Outcome outcome;
    outcome.end = static_cast<CodeContext::Outcome::End>(result.end);
    outcome.value = std::move(result.result);
    outcome.displays = std::move(result.displays);
    if (result.error)
        outcome.error = {std::move(result.error->name), std::move(result.error->value),
                         std::move(result.error->traceback)};
    outcome.truncated = result.truncated;
    outcome.context_lost = result.context_lost;
    return outcome;
}

}  // namespace

Result<CodeContext> Sandbox::create_context(const CodeContext::Spec& spec, const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call, [&](AgentConnection& agent) -> Result<CodeContext> {
            const ContextSpec wanted = {
                .name = spec.name,
                .language = static_cast<ContextLanguage>(spec.language),
                .program = spec.program,
                .cwd = spec.cwd,
                .user = spec.user,
                .environment = {spec.environment.begin(), spec.environment.end()},
                .unset = spec.unset};
            TRY(CodeContexts(agent).create(wanted, call.deadline));
            return make_context(impl_, {.name = spec.name, .language = wanted.language});
        });
    });
}

Result<std::vector<CodeContext>> Sandbox::contexts(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_, call,
                          [&](AgentConnection& agent) -> Result<std::vector<CodeContext>> {
                              std::vector<CodeContext> all;
                              for (ContextInfo& each : TRY(CodeContexts(agent).list(call.deadline)))
                                  all.push_back(make_context(impl_, std::move(each)));
                              return all;
                          });
    });
}

Result<CodeContext> Sandbox::find_context(const std::string& name, const Call& call) const {
    auto all = TRY(contexts(call));
    for (CodeContext& each : all) {
        if (each.name() == name)
            return std::move(each);
    }
    return fail(Code::not_found, "context '" + name + "': there is none");
}

const std::string& CodeContext::name() const {
    return impl_->name;
}

CodeContext::Language CodeContext::language() const {
    return impl_->language;
}

Result<CodeContext::Outcome> CodeContext::run(const std::string& code, const CodeStreams& streams,
                                              std::chrono::milliseconds timeout,
                                              const Call& call) const {
    return guarded([&]() -> Result<Outcome> {
        const RunStreams sinks = {
            .on_stdout = streams.out, .on_stderr = streams.err, .on_display = streams.display};
        return with_agent(*impl_->sandbox, call, [&](AgentConnection& agent) -> Result<Outcome> {
            return outcome_of(
                TRY(CodeContexts(agent).run(impl_->name, code, sinks, timeout, call.deadline)));
        });
    });
}

Status CodeContext::interrupt(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_->sandbox, call, [&](AgentConnection& agent) {
            return CodeContexts(agent).interrupt(impl_->name, call.deadline);
        });
    });
}

Status CodeContext::remove(const Call& call) const {
    return guarded([&] {
        return with_agent(*impl_->sandbox, call, [&](AgentConnection& agent) {
            return CodeContexts(agent).remove(impl_->name, call.deadline);
        });
    });
}

}  // namespace v1
}  // namespace spore
