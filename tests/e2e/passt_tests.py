"""A VM whose network is passt itself: frames over a Unix stream socket, as `spore run --net socket=PATH` has them."""

import contextlib
import os
import socket
import subprocess

from device_tests import GUEST_STREAM, InGuest, accept, exchange
from host import Skipped, Vm, check, check_equal, wait_until
from rig import Machine

ADDRESS, GATEWAY = '192.0.2.1', '192.0.2.254'  # of the namespace passt is in; the guest has the same


class PasstMachine(Machine):
    """In a namespace that has a way out by `out`: what goes to its gateway passt brings to the loopback there."""

    def __init__(self, host):
        super().__init__()
        self.passt = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for words in ('link add out type dummy', f'address add {ADDRESS}/24 dev out', 'link set out up',
                          f'route add default via {GATEWAY}'):
                subprocess.run([*self.inside(), 'ip', *words.split()], check=True, capture_output=True)
            directory = host.directory('passt')
            os.chmod(directory, 0o777)  # passt is nobody
            path = os.path.join(directory, 's')
            self.passt = subprocess.Popen([*self.inside(), 'passt', '--foreground', '--socket', path],
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until(lambda: os.path.exists(path) or self.passt.poll() is not None, 'passt\'s socket')
            check(self.passt.poll() is None, f'passt ended at once: {self.passt.returncode}')
            disk = os.path.join(directory, 'top')
            self.vm = Vm(host, 'passt-vm', '--kernel', host.kernel_file(host.fast_kernel, 'vmlinux'),
                         '--initrd', host.kernel_file(host.fast_kernel, 'initramfs'), '--memory', '256M',
                         '--cmdline', 'console=ttyS0 quiet loglevel=4 panic=-1 reboot=t spore.root=vda',
                         '--disk', f'{disk},layer={host.rootfs},size={2 << 30}', '--net', f'socket={path}')
            self.agent = self.vm.wait_for_agent()
            undo.pop_all()

    def close(self):
        super().close()
        if self.passt:
            self.passt.kill()
            self.passt.wait()


def through_passt(host):
    if os.geteuid() != 0:
        raise Skipped('needs root, for namespaces')
    with PasstMachine(host) as machine:
        machine.agent.run(f'ip address replace {ADDRESS}/24 dev eth0 && ip link set eth0 up && '
                          f'ip route replace default via {GATEWAY}')
        listener = machine.call_inside(lambda: socket.create_server(('127.0.0.1', 0)))
        guest = InGuest(machine, 'python3', '-c', GUEST_STREAM, 'inet', GATEWAY,
                        str(listener.getsockname()[1]), '0', '20', '20')
        exchange(accept(listener), guest, 20, 20)
        # Its end is a cable pulled, and no end of the VM.
        machine.passt.kill()
        machine.passt.wait()
        wait_until(lambda: machine.agent.run('cat', '/sys/class/net/eth0/carrier').text.strip() == '0',
                   'the guest to see that its link is gone')
        check_equal(machine.agent.run('echo', 'alive').text.strip(), 'alive', 'after passt\'s end')


TESTS = [('network-passt', through_passt)]
