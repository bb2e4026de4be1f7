#include "hypervisor/network/nft.h"

#include <dlfcn.h>
#include <nftables/libnftables.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "hypervisor/base/one_line.h"

namespace spore {

namespace {

struct Library {
    decltype(&nft_ctx_new) make = nullptr;
    decltype(&nft_ctx_free) free = nullptr;
    decltype(&nft_ctx_output_set_flags) set_flags = nullptr;
    decltype(&nft_ctx_buffer_output) buffer_output = nullptr;
    decltype(&nft_ctx_buffer_error) buffer_error = nullptr;
    decltype(&nft_ctx_get_output_buffer) output = nullptr;
    decltype(&nft_ctx_get_error_buffer) error = nullptr;
    decltype(&nft_run_cmd_from_buffer) run = nullptr;
    bool complete = true;
    std::string why;

    Library() {
        void* handle = ::dlopen("libnftables.so.1", RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) {
            complete = false;
            why = ::dlerror();
            return;
        }
        find(handle, "nft_ctx_new", make);
        find(handle, "nft_ctx_free", free);
        find(handle, "nft_ctx_output_set_flags", set_flags);
        find(handle, "nft_ctx_buffer_output", buffer_output);
        find(handle, "nft_ctx_buffer_error", buffer_error);
        find(handle, "nft_ctx_get_output_buffer", output);
        find(handle, "nft_ctx_get_error_buffer", error);
        find(handle, "nft_run_cmd_from_buffer", run);
    }

    template <typename Function>
    void find(void* handle, const char* name, Function& function) {
        function = reinterpret_cast<Function>(::dlsym(handle, name));
        if (function == nullptr) {
            complete = false;
            why = std::string("libnftables has no ") + name;
        }
    }
};

const Library& library() {
    static const Library loaded;
    return loaded;
}

// The library's parser has state of its own.
std::mutex& one_at_a_time() {
    static std::mutex mutex;
    return mutex;
}

// nft's last line says no more than where; the first says what.
std::string first_line(const std::string& text) {
    std::string line = text.substr(0, text.find('\n'));
    size_t error = line.find("Error: ");
    return one_line(error == std::string::npos ? line : line.substr(error + 7));
}

// What it printed.
Result<std::string> run(const std::string& text, unsigned flags) {
    TRY(find_nft());
    const Library& nft = library();
    std::scoped_lock lock(one_at_a_time());
    std::unique_ptr<nft_ctx, decltype(nft.free)> context(nft.make(NFT_CTX_DEFAULT), nft.free);
    if (!context || nft.buffer_output(context.get()) != 0 || nft.buffer_error(context.get()) != 0)
        return fail(Code::resource_exhausted, "nftables: no context can be had");
    nft.set_flags(context.get(), flags);
    if (nft.run(context.get(), text.c_str()) == 0)
        return std::string(nft.output(context.get()));
    std::string why = first_line(nft.error(context.get()));
    Code code = Code::invalid_argument;
    if (why.find("Operation not permitted") != std::string::npos)
        code = Code::permission_denied;
    else if (why.find("not supported") != std::string::npos)
        code = Code::host_unsupported;
    else if (why.find("No such file") != std::string::npos)
        code = Code::not_found;
    return fail(code, "nftables: " + why);
}

}  // namespace

Status find_nft() {
    if (library().complete)
        return {};
    return fail(Code::host_unsupported,
                "nftables: " + library().why + "; apt-get install libnftables1");
}

Status run_nft(const std::string& text) {
    TRY(run(text, 0));
    return {};
}

Result<std::string> list_table(const std::string& family_and_name) {
    return run("list table " + family_and_name,
               NFT_CTX_OUTPUT_STATELESS | NFT_CTX_OUTPUT_TERSE | NFT_CTX_OUTPUT_NUMERIC_ALL);
}

}  // namespace spore
