#include "hypervisor/sandbox/image.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

namespace spore {

namespace stdfs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kImageFormat = 1;

std::unexpected<Error> corrupt(const stdfs::path& file, const std::string& what) {
    return fail(Code::corrupt, file.string() + ": " + what);
}

// `path`, relative to the image's directory, as long as it stays in it.
Result<stdfs::path> inside(const stdfs::path& directory, const json& object, const char* key) {
    auto found = object.find(key);
    if (found == object.end() || !found->is_string())
        return corrupt(directory / "image.json", std::string("has no text '") + key + "'");
    stdfs::path path = stdfs::path(found->get<std::string>()).lexically_normal();
    if (path.empty() || path.is_absolute() || *path.begin() == "..")
        return corrupt(directory / "image.json",
                       std::string("'") + key + "' leads out of the image: " + path.string());
    return directory / path;
}

std::string text_or(const json& object, const char* key, const std::string& otherwise) {
    auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

Result<Image> parse_image(const stdfs::path& directory, const json& document) {
    if (!document.is_object() || !document.contains("format") ||
        !document["format"].is_number_integer())
        return corrupt(directory / "image.json", "has no format version");
    int format = document["format"].get<int>();
    if (format != kImageFormat)
        return fail(Code::version_mismatch, (directory / "image.json").string() + ": format " +
                                                std::to_string(format) + ", this Spore reads " +
                                                std::to_string(kImageFormat));
    Image image;
    image.name = directory.filename();
    image.created = text_or(document, "created", "");
    image.recipe = text_or(document, "recipe", "");
    auto rootfs = document.find("rootfs");
    if (rootfs == document.end() || !rootfs->is_object())
        return corrupt(directory / "image.json", "has no rootfs");
    image.rootfs = TRY(inside(directory, *rootfs, "path"));
    std::error_code error;
    image.rootfs_bytes = stdfs::file_size(image.rootfs, error);
    if (error)
        return fail_errno(image.rootfs.string(), error.value());
    auto kernels = document.find("kernels");
    if (kernels == document.end() || !kernels->is_object() || kernels->empty())
        return corrupt(directory / "image.json", "has no kernels");
    for (auto& [name, entry] : kernels->items()) {
        if (!entry.is_object())
            return corrupt(directory / "image.json", "kernel '" + name + "' is not an object");
        image.kernels.push_back({name, TRY(inside(directory, entry, "vmlinux")),
                                 TRY(inside(directory, entry, "vmlinuz")),
                                 TRY(inside(directory, entry, "initramfs"))});
    }
    return image;
}

}  // namespace

Result<Image> load_image(const Home& home, const std::string& name) {
    TRY(check_name("image", name));
    stdfs::path directory = home.images() / name;
    std::ifstream file(directory / "image.json");
    if (!file)
        return fail(Code::not_found,
                    "image '" + name + "': there is none in " + home.images().string());
    return parse_image(directory, json::parse(file, nullptr, false));
}

Result<std::vector<Image>> list_images(const Home& home) {
    std::vector<Image> images;
    std::error_code error;
    for (const auto& entry : stdfs::directory_iterator(home.images(), error)) {
        if (!check_name("image", entry.path().filename().string()))
            continue;  // one being built
        if (auto image = load_image(home, entry.path().filename()))
            images.push_back(std::move(*image));
    }
    if (error)
        return fail_errno(home.images().string(), error.value());
    std::ranges::sort(images, {}, &Image::name);
    return images;
}

Result<ImageKernel> find_kernel(const Image& image, const std::string& kernel) {
    std::string names;
    for (const ImageKernel& candidate : image.kernels) {
        if (candidate.name == kernel)
            return candidate;
        names += (names.empty() ? "" : ", ") + candidate.name;
    }
    return fail(Code::not_found,
                "kernel '" + kernel + "': image '" + image.name + "' has " + names);
}

}  // namespace spore
