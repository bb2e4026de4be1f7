"""A VM with every device: the one booted for all tests of devices, and those of a test's own."""

import ctypes
import os
import shutil
import subprocess
import threading

from host import Vm, check

CLONE_NEWNET = 0x40000000
MIB = 1 << 20
SCRATCH_BYTES = 512 * MIB
HOST_ADDRESS, GUEST_ADDRESS = '10.99.0.1', '10.99.0.2'
HOST_MAC = '02:00:5e:99:00:01'  # as a gateway's, the same for every clone


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True, capture_output=True)


class Network:
    """A namespace with tap0 in it, up and with an address, for one VM."""

    count = 0

    def __init__(self):
        Network.count += 1
        self.namespace = f'spore-e2e-{os.getpid()}-{Network.count}'
        ip('netns', 'add', self.namespace)
        try:
            ip('-n', self.namespace, 'link', 'set', 'lo', 'up')
            ip('-n', self.namespace, 'tuntap', 'add', 'tap0', 'mode', 'tap', 'vnet_hdr')
            ip('-n', self.namespace, 'link', 'set', 'tap0', 'address', HOST_MAC)
            ip('-n', self.namespace, 'address', 'add', f'{HOST_ADDRESS}/24', 'dev', 'tap0')
            ip('-n', self.namespace, 'link', 'set', 'tap0', 'up')
        except BaseException:
            self.close()
            raise

    def inside(self):
        """What a command line begins with to run in the namespace."""
        return ['ip', 'netns', 'exec', self.namespace]

    def call_inside(self, function):
        """What `function` returns in the namespace: a socket made in it stays there."""
        result = []

        def enter():
            with open(f'/run/netns/{self.namespace}', 'rb') as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                    return
            result.append(function())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        check(result, f'setns to {self.namespace} failed')
        return result[0]

    def close(self):
        subprocess.run(['ip', 'netns', 'delete', self.namespace], check=False, capture_output=True)


class Machine:
    """A VM and its network; `vm` is there once it was started."""

    def __init__(self):
        self.vm = None
        self.network = Network()
        self.inside = self.network.inside
        self.call_inside = self.network.call_inside

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.vm:
            self.vm.__exit__()
        self.network.close()


class Rig(Machine):
    """Disks: vda layered root, vdb raw scratch, vdc read-only; eth0 a tap in its own namespace; vsock."""

    def __init__(self, host, name='rig', kernel='stock', cpus=1, memory='512M'):
        super().__init__()
        self.host = host
        directory = host.directory(f'{name}-disks')
        self.scratch = os.path.join(directory, 'scratch')
        self.read_only = os.path.join(directory, 'read-only')
        self.top = os.path.join(directory, 'top')
        with open(self.scratch, 'wb') as file:
            file.truncate(SCRATCH_BYTES)
        with open(self.read_only, 'wb') as file:
            file.write(os.urandom(4 * MIB))
        try:
            self.vm = Vm(
                host, name, '--kernel', host.kernel_file(kernel, 'vmlinux'),
                '--initrd', host.kernel_file(kernel, 'initramfs'), '--memory', memory, '--cpus', str(cpus),
                '--cmdline', 'console=ttyS0 quiet loglevel=4 panic=-1 reboot=t spore.root=vda',
                '--disk', f'{self.top},layer={host.rootfs},size={2 << 30}', '--disk', self.scratch,
                '--disk', f'{self.read_only},ro', '--net', 'tap=tap0', prefix=self.inside())
            self.agent = self.vm.wait_for_agent()
            self.agent.grow_root()
        except BaseException:
            self.close()
            raise

    def snapshot(self, name, carry):
        """A directory with a snapshot and the raw disk's content at that moment."""
        saved = self.host.directory(name)
        self.vm.control('pause')
        try:
            self.vm.snapshot(saved, carry)
            subprocess.run(['cp', '--sparse=always', self.scratch, os.path.join(saved, 'scratch')], check=True)
        except BaseException:
            shutil.rmtree(saved)
            raise
        finally:
            self.vm.control('resume')
        return saved


class RigClone(Machine):
    """A rig again, from such a directory, in a network of its own with the same addresses."""

    def __init__(self, rig_cloned, saved, name='rig-clone'):
        super().__init__()
        self.scratch = os.path.join(saved, 'scratch')
        try:
            self.vm = Vm(rig_cloned.host, name, '--restore', saved, '--disk', 'top', '--disk', self.scratch,
                         '--disk', f'{rig_cloned.read_only},ro', '--net', 'tap=tap0', prefix=self.inside())
        except BaseException:
            self.close()
            raise


SHARED = {}


def shared(name, host, **options):
    """The one of this run; an attempt that failed is not repeated by every test."""
    if name not in SHARED:
        SHARED[name] = None
        SHARED[name] = Rig(host, name, **options)
    check(SHARED[name], f'the VM with every device ({name}) did not boot')
    return SHARED[name]


def rig(host):
    return shared('rig', host)


def busy_rig(host):
    """Small, as it is snapshotted, and with CPUs that race each other."""
    return shared('busy-rig', host, kernel=host.fast_kernel, cpus=2, memory='256M')


def close():
    for each in SHARED.values():
        if each:
            each.close()
    SHARED.clear()
