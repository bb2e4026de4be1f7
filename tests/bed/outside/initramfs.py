"""The bed's initramfs: static busybox, the modules its devices need, inside/init and its settings."""
import os
import shlex
import shutil
import subprocess
import tempfile

from outside.message import BedError

BUSYBOX = "/bin/busybox"
# The devices and file systems of the bed, and what a test expects to find without modprobe.
MODULES = ["irqbypass", "kvm", "kvm_amd", "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng",
           "tun", "fuse", "virtiofs", "overlay", "loop"]


def build(path, kernel, tree, settings):
    """Writes the cpio archive; settings are shell variables for inside/init."""
    if not os.access(BUSYBOX, os.X_OK):
        raise BedError(f"{BUSYBOX} is missing: apt-get install busybox-static")
    with tempfile.TemporaryDirectory(prefix="initramfs-", dir=os.path.dirname(path)) as root:
        os.makedirs(f"{root}/bin")
        os.makedirs(f"{root}/modules")
        os.makedirs(f"{root}/dev")
        shutil.copy(BUSYBOX, f"{root}/bin/busybox")
        shutil.copy(f"{tree}/tests/bed/inside/init", f"{root}/init")
        modules = kernel.load_order(MODULES)
        for module in modules:
            shutil.copy(module, f"{root}/modules/")
        settings = settings | {"MODULES": " ".join(os.path.basename(m) for m in modules),
                               "MODULES_DIR": kernel.modules, "RELEASE": kernel.release}
        with open(f"{root}/bed.conf", "w", encoding="utf-8") as file:
            for name, value in settings.items():
                file.write(f"{name}={shlex.quote(value)}\n")
        names = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True).stdout
        with open(path, "wb") as file:
            done = subprocess.run(["cpio", "--quiet", "-0", "-o", "-H", "newc", "-R", "0:0"], cwd=root,
                                  input=names, stdout=file, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise BedError(f"cpio: {done.stderr.decode().strip()}")
