#pragma once

// Images: what guests are made of. Built by agent/image/build; see its README for image.json.

#include <cstdint>
#include <string>
#include <vector>

#include "hypervisor/sandbox/home.h"

namespace spore {

struct ImageKernel {
    std::string name;              // "stock", "tuned"
    std::filesystem::path kernel;  // ELF vmlinux
    std::filesystem::path bzimage;
    std::filesystem::path initramfs;
};

struct Image {
    std::string name;
    std::string created;  // RFC 3339
    std::string recipe;
    std::filesystem::path rootfs;
    uint64_t rootfs_bytes = 0;
    std::vector<ImageKernel> kernels;
};

// UNTRUSTED: image.json may come from anybody; every field is checked, paths stay in the image's
// directory. Errors: not_found, corrupt, version_mismatch.
Result<Image> load_image(const Home& home, const std::string& name);
// All images, by name; directories that are no images are passed over.
Result<std::vector<Image>> list_images(const Home& home);
// The kernel called `kernel` of `image`. Errors: not_found, naming those there are.
Result<ImageKernel> find_kernel(const Image& image, const std::string& kernel);

}  // namespace spore
