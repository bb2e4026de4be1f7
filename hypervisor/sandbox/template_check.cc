#include "hypervisor/sandbox/template_check.h"

#include <fcntl.h>

#include <algorithm>

#include "hypervisor/sandbox/template_files.h"
#include "hypervisor/snapshot/seal.h"
#include "hypervisor/snapshot/state.h"
#include "hypervisor/snapshot/verify.h"

namespace spore {

namespace {

// Whether the seal is that of the files as they are.
Result<Seal> read_matching_seal(const std::filesystem::path& directory) {
    auto seal = TRY(Seal::read(directory));
    for (const FileSeal& sealed : seal.files()) {
        std::string path = (directory / sealed.name).string();
        UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
        if (!file)
            return fail_errno(path);
        TRY(seal.check(file.get(), path));
    }
    return seal;
}

Status compare_all(const std::filesystem::path& directory, const Checksums& checksums,
                   const Progress& progress) {
    // What a clone cannot do without.
    for (const char* name : {kStateFile, kMemoryFile, kBaseFile}) {
        if (std::ranges::find(checksums, name, &FileChecksums::name) == checksums.end())
            return fail(Code::corrupt, (directory / kChecksumsFile).string() + ": none of " + name);
    }
    for (const FileChecksums& file : checksums)
        TRY(compare_file(directory, file, report_percent(progress)));
    auto memory = std::ranges::find(checksums, std::string(kMemoryFile), &FileChecksums::name);
    return verify_snapshot(directory, &*memory);
}

}  // namespace

Result<TemplateCheck> verify_template(const Home& home, const std::string& name,
                                      const Progress& progress) {
    auto verify = [&]() -> Result<TemplateCheck> {
        auto directory = TRY(load_template(home, name)).directory;
        auto checksums = TRY(read_checksums(directory));
        TRY(compare_all(directory, checksums, progress));
        TemplateCheck check;
        auto seal = read_matching_seal(directory);
        if (!seal) {
            TRY(seal_template(directory, checksums, progress));
            check.sealed_anew = true;
            seal = TRY(read_matching_seal(directory));
        }
        check.verity = seal->has_verity();
        return check;
    };
    auto verified = verify();
    if (!verified && verified.error().message.find("template '") == std::string::npos)
        return std::unexpected(std::move(verified).error().within("template '" + name + "'"));
    return verified;
}

}  // namespace spore
