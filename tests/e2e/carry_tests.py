"""The agent's connection carried through a snapshot: what a clone's first message needs, and who else may come."""

import json
import os

import agent
from agent import Agent, AgentError, attach_vsock
from host import Vm, check, check_equal, read_text, wait_until
from snapshot_tests import decode

# A program that has a vsock connection from the host when the snapshot is made, and says what becomes
# of it. At RST Linux ends the stream; ECONNRESET is for TRANSPORT_RESET, which would end all.
WAITER = """
import socket
listener = socket.socket(socket.AF_VSOCK)
listener.bind((socket.VMADDR_CID_ANY, 7000))
listener.listen(1)
print("listens", flush=True)
connection = listener.accept()[0]
print("read", connection.recv(1), flush=True)
"""


def template(host):
    return os.path.join(host.home, 'templates', host.template(host.fast_kernel))


def last_stream(directory):
    return json.loads(read_text(os.path.join(directory, 'template.json')))['agent']['last_stream']


def clone(host, directory, *options):
    return Vm(host, 'clone', '--restore', directory, '--disk', 'top', *options)


def ended(connection):
    """The VMM hangs up, at once or with a reset."""
    try:
        return connection.recv(1) == b''
    except ConnectionResetError:
        return True


def is_refused(connected, argv=('true',)):
    try:
        connected.run(*argv)
    except AgentError as error:
        return 'no identity yet' in str(error)
    return False


def first_message(host):
    source = template(host)
    vsock = [device['kind'] for device in decode(source, os.path.join(host.directory('state'), 'd'))['devices']
             if 'guest_cid' in device.get('kind', {})]
    check_equal([kind['carried']['ports']['guest'] for kind in vsock], [agent.PORT], 'carried')
    with clone(host, source) as vm:
        wait_until(lambda: os.path.exists(vm.vsock_path), 'the vsock socket')
        carried = Agent.attach(vm.vsock_path, last_stream(source), 60)
        vm.agent = carried
        check(is_refused(carried), 'a clone without identity runs commands')
        other = vm.new_agent()
        check(other.sealed and is_refused(other), 'another connection is no way around it')
        check(ended(attach_vsock(vm.vsock_path, agent.PORT, 60)), 'a second host end attaches')
        carried.identify('carried-1')
        check_equal(carried.run('hostname').text, 'carried-1\n', 'on the carried connection')
        check_equal(other.run('cat', '/etc/hostname').text, 'carried-1\n', 'on the other')
        big = carried.run('head -c 3000000 /dev/zero | tr "\\0" x').out
        check(big == b'x' * 3000000, f'{len(big)} bytes of output, or others')
        carried.close()
        check_equal(vm.new_agent().run('cat /proc/sys/kernel/random/boot_id | wc -c').text, '37\n', 'later')
        check(ended(attach_vsock(vm.vsock_path, agent.PORT, 60)), 'attached when it had ended')


def before_it_runs(host):
    source = template(host)
    with clone(host, source, '--paused') as vm:
        check_equal(vm.state()[0], 'paused', 'state')
        vm.agent = Agent.attach(vm.vsock_path, last_stream(source), 120)
        stream = vm.agent.send_identity('parked')
        vm.control('resume')
        vm.agent.confirm(stream)
        check_equal(vm.agent.run('hostname').text, 'parked\n', 'hostname')


def others_are_reset(host):
    with clone(host, template(host)) as first:
        known = first.wait_for_agent()
        known.identify('first')
        known.run(f"mkdir -p /t; cat > /t/w.py <<'END'\n{WAITER}\nEND\n"
                  'setsid python3 -u /t/w.py > /t/log 2>&1 < /dev/null &')
        wait_until(lambda: 'listens' in known.run('cat', '/t/log').text, 'the listener in the guest')
        other = agent.connect_vsock(first.vsock_path, 7000, 60)
        known.prepare_snapshot()
        saved = host.directory('saved')
        first.snapshot(saved, (known.host_port, agent.PORT))
        streams = known.streams
        other.close()
    with clone(host, saved) as second:
        wait_until(lambda: os.path.exists(second.vsock_path), 'the vsock socket')
        second.agent = Agent.attach(second.vsock_path, streams, 60)
        second.agent.identify('second')
        wait_until(lambda: 'read' in second.agent.run('cat', '/t/log').text, 'the end of the other')
        check_equal(second.agent.run('cat', '/t/log').text.split('\n')[1], "read b''", 'log')


TESTS = [
    ('carry-first-message', first_message),
    ('carry-before-it-runs', before_it_runs),
    ('carry-others-are-reset', others_are_reset),
]
