"""The bed's kernel: Debian's cloud kernel, downloaded and unpacked (not installed) into a cache; or that of
another package, $SPORE_BED_KERNEL (linux-image-6.12-cloud-amd64), in a directory of its own there.

$SPORE_BED_CACHE, or $XDG_CACHE_HOME/spore/bed, or ~/.cache/spore/bed holds one directory for each
package version; all trees and slots share it. A kernel in the cache is used without asking apt.
"""
import fcntl
import glob
import os
import re
import shutil
import subprocess
import tempfile

from outside.message import BedError, say

USUAL_PACKAGE = "linux-image-cloud-amd64"
META_PACKAGE = os.environ.get("SPORE_BED_KERNEL") or USUAL_PACKAGE


def module_name(path):
    return os.path.basename(path).removesuffix(".ko").replace("-", "_")


class Kernel:
    def __init__(self, directory):
        self.directory = directory
        self.vmlinux = f"{directory}/vmlinux"
        (self.modules,) = glob.glob(f"{directory}/lib/modules/*")
        self.release = os.path.basename(self.modules)

    def load_order(self, wanted):
        """Paths of the wanted modules and what they need, in an order in which insmod takes them."""
        needs = {}
        with open(f"{self.modules}/modules.dep", encoding="utf-8") as file:
            for line in file:
                path, _, rest = line.partition(":")
                needs[path] = rest.split()
        by_name = {module_name(path): path for path in needs}
        with open(f"{self.modules}/modules.builtin", encoding="utf-8") as file:
            built_in = {module_name(line.strip()) for line in file}
        order = []

        def add(path):
            for other in needs[path]:
                add(other)
            if path not in order:
                order.append(path)

        for name in wanted:
            if name in built_in:
                continue
            if name not in by_name:
                raise BedError(f"kernel {self.release} has no module {name}")
            add(by_name[name])
        return [f"{self.modules}/{path}" for path in order]


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = os.path.abspath(os.environ.get("SPORE_BED_CACHE") or f"{base}/spore/bed")
    return cache if META_PACKAGE == USUAL_PACKAGE else f"{cache}/{META_PACKAGE}"


def version_key(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find(tree):
    """The newest kernel in the cache; fetched if there is none."""
    cache = cache_directory()
    os.makedirs(cache, exist_ok=True)
    with open(f"{cache}/lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = sorted(glob.glob(f"{cache}/kernel-*"), key=version_key)
        return Kernel(ready[-1] if ready else fetch(cache, tree))


def run(command, **options):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except FileNotFoundError as error:
        raise BedError(f"{error.filename} is missing: install what tools/packages.txt lists") from None
    if done.returncode != 0:
        tail = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no message"]
        raise BedError(f"{' '.join(command[:3])}: {tail[0]}")
    return done.stdout


def download(directory):
    """The kernel's package, downloaded into the directory."""
    depends = run(["apt-cache", "depends", META_PACKAGE])
    found = re.search(r"Depends: (linux-image-\d\S+-cloud-amd64)", depends)
    if not found:
        raise BedError(f"apt knows no {META_PACKAGE}")
    run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", found[1]], cwd=directory)
    (package,) = glob.glob(f"{directory}/*.deb")
    return package


def fetch(cache, tree):
    say(f"fetching kernel {META_PACKAGE} into {cache} (once)")
    with tempfile.TemporaryDirectory(prefix="partial-", dir=cache) as partial:
        try:
            package = download(partial)
        except BedError as error:
            say(f"{error}; running apt-get update and trying again")
            run(["apt-get", "update", "-q"])
            package = download(partial)
        name, version = run(["dpkg-deb", "-W", package]).split()
        say(f"unpacking {name} {version}")
        unpacked = f"{partial}/unpacked"
        run(["dpkg-deb", "-x", package, unpacked])
        (image,) = glob.glob(f"{unpacked}/boot/vmlinuz-*")
        run([f"{tree}/tools/extract-vmlinux", image, f"{unpacked}/vmlinux"])
        (modules,) = glob.glob(f"{unpacked}/lib/modules/*")
        for compressed in glob.glob(f"{modules}/**/*.ko.xz", recursive=True):
            run(["xz", "-d", compressed])
        run(["/sbin/depmod", "-b", unpacked, os.path.basename(modules)])
        shutil.rmtree(f"{unpacked}/usr", ignore_errors=True)
        target = f"{cache}/kernel-{version}"
        os.rename(unpacked, target)
    return target
