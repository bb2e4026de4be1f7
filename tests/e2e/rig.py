"""One VM with every device, booted once for all tests of devices."""

import ctypes
import os
import subprocess
import threading

from host import Vm, check

CLONE_NEWNET = 0x40000000
MIB = 1 << 20
SCRATCH_BYTES = 512 * MIB
HOST_ADDRESS, GUEST_ADDRESS = '10.99.0.1', '10.99.0.2'


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True, capture_output=True)


class Rig:
    """Disks: vda layered root, vdb raw scratch, vdc read-only; eth0 a tap in its own namespace; vsock."""

    def __init__(self, host):
        directory = host.directory('disks')
        self.scratch = os.path.join(directory, 'scratch')
        self.read_only = os.path.join(directory, 'read-only')
        self.top = os.path.join(directory, 'top')
        with open(self.scratch, 'wb') as file:
            file.truncate(SCRATCH_BYTES)
        with open(self.read_only, 'wb') as file:
            file.write(os.urandom(4 * MIB))
        self.namespace = f'spore-e2e-{os.getpid()}'
        self.vm = None
        ip('netns', 'add', self.namespace)
        try:
            ip('-n', self.namespace, 'link', 'set', 'lo', 'up')
            ip('-n', self.namespace, 'tuntap', 'add', 'tap0', 'mode', 'tap', 'vnet_hdr')
            ip('-n', self.namespace, 'address', 'add', f'{HOST_ADDRESS}/24', 'dev', 'tap0')
            ip('-n', self.namespace, 'link', 'set', 'tap0', 'up')
            self.vm = Vm(
                host, 'rig', '--kernel', host.kernel_file('stock', 'vmlinux'),
                '--initrd', host.kernel_file('stock', 'initramfs'), '--memory', '512M', '--cpus', '1',
                '--cmdline', 'console=ttyS0 quiet loglevel=4 panic=-1 reboot=t spore.root=vda',
                '--disk', f'{self.top},layer={host.rootfs},size={2 << 30}', '--disk', self.scratch,
                '--disk', f'{self.read_only},ro', '--net', 'tap=tap0', prefix=self.inside())
            self.agent = self.vm.wait_for_agent()
            self.agent.grow_root()
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
        if self.vm:
            self.vm.__exit__()
        subprocess.run(['ip', 'netns', 'delete', self.namespace], check=False, capture_output=True)


SHARED = []


def rig(host):
    """The one of this run; an attempt that failed is not repeated by every test."""
    if not SHARED:
        SHARED.append(None)
        SHARED[0] = Rig(host)
    check(SHARED[0], 'the VM with every device did not boot')
    return SHARED[0]


def close():
    if SHARED and SHARED[0]:
        SHARED[0].close()
    SHARED.clear()
