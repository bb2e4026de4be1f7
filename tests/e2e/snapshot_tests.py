"""A restored machine is the one that was snapshotted: compared field by field and byte for byte."""

import json
import os
import shutil
import subprocess

from host import Skipped, Vm, check, check_equal, read_text

SCHEMA = os.path.join(os.path.dirname(os.path.realpath(__file__)), '../../schema/snapshot.fbs')
COMPARED_BYTES = 1 << 18  # at once
HEADER_BYTES = 40  # hypervisor/snapshot/state_file.h

# What may differ, and why. Everything else must be equal.
#   created_unix_ns: when the snapshot was made
#   clock: kvmclock goes on with the host's time from the moment it is set
#   MSR 0x10: the TSC counts on, whether the vCPU runs or not
#   LAPIC 0x390: the timer's current count, which follows from time and the initial count
#   layers of a disk: the template's own layer has come below the clone's (checked apart)
#   memory where MSRs of KVM's clocks point: KVM writes the wall clock (pvclock_wall_clock, 12 bytes)
#       and the system time (pvclock_vcpu_time_info, 32 bytes) there when the MSRs are set
MSR_TSC = 0x10
MSR_CLOCKS = {0x4b564d00: 12, 0x4b564d01: 32}
LAPIC_CURRENT_COUNT = range(0x390, 0x394)
# Made of TPR and ISR, which are compared (SDM 3A 10.8.3.1); KVM brings it up to date when it looks at
# it, and always when it is loaded, so what is saved may be older than those two.
LAPIC_PROCESSOR_PRIORITY = range(0xa0, 0xa4)


def decode(directory, work):
    """state.spore as JSON, by flatc and the schema: not by the code that is under test."""
    flatc = shutil.which('flatc')
    if flatc is None:
        raise Skipped('flatc (flatbuffers-compiler) is not installed')
    with open(os.path.join(directory, 'state.spore'), 'rb') as file:
        data = file.read()
    check_equal(data[:8], b'SPORESNP', 'magic')
    check_equal(len(data) - HEADER_BYTES, int.from_bytes(data[16:24], 'little'), 'payload bytes')
    os.makedirs(work)
    with open(os.path.join(work, 'payload.bin'), 'wb') as file:
        file.write(data[HEADER_BYTES:])
    subprocess.run([flatc, '--raw-binary', '-t', '--strict-json', '--defaults-json', '-o', work, SCHEMA,
                    '--', os.path.join(work, 'payload.bin')], check=True, capture_output=True)
    return json.loads(read_text(os.path.join(work, 'payload.json')))


def differences(one, other, path=''):
    """Where two JSON values differ, as texts."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [text for key in sorted(one.keys() | other.keys())
                for text in differences(one.get(key), other.get(key), f'{path}.{key}')]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [text for index, pair in enumerate(zip(one, other))
                for text in differences(*pair, f'{path}[{index}]')]
    return [] if one == other else [f'{path}: {str(one)[:80]} -> {str(other)[:80]}']


def compare_memory(directory, other_directory, state):
    clocks = [range(msr['value'] & ~1, (msr['value'] & ~1) + MSR_CLOCKS[msr['index']])
              for vcpu in state['vcpus'] for msr in vcpu['msrs'] if msr['index'] in MSR_CLOCKS]
    check(len(state['memory']['regions']) == 1, 'image offsets are addresses in one region only')
    wrong, place = [], 0
    with open(os.path.join(directory, 'memory.img'), 'rb') as one, \
            open(os.path.join(other_directory, 'memory.img'), 'rb') as other:
        while True:
            here, there = one.read(COMPARED_BYTES), other.read(COMPARED_BYTES)
            check_equal(len(there), len(here), f'bytes read at {place:#x}')
            if not here:
                break
            if here != there:
                wrong += [place + index for index, pair in enumerate(zip(here, there))
                          if pair[0] != pair[1]
                          and not any(place + index in clock for clock in clocks)]
            place += len(here)
    check(place == state['memory']['image_bytes'], f'memory.img has {place} bytes')
    check(not wrong, f'{len(wrong)} bytes of memory differ, the first at '
                     f'{[hex(each) for each in wrong[:20]]}; clocks at {clocks}')


def without_time(state):
    """The state without what may differ, and the layers of its disks."""
    # The checksums of the memory: it has been compared itself.
    del state['created_unix_ns'], state['clock'], state['memory']['chunk_hashes']
    for vcpu in state['vcpus']:
        check(any(msr['index'] == MSR_TSC for msr in vcpu['msrs']), 'no TSC among the MSRs')
        vcpu['msrs'] = {hex(msr['index']): msr['value'] for msr in vcpu['msrs']
                        if msr['index'] != MSR_TSC}
        for place in (*LAPIC_CURRENT_COUNT, *LAPIC_PROCESSOR_PRIORITY):
            vcpu['lapic'][place] = 0
    return [device['kind'].pop('layers') for device in state['devices']
            if 'layers' in device.get('kind', {})]


def equality(cpus):
    def test(host):
        kernel = host.fast_kernel
        template = os.path.join(host.home, 'templates', host.template(kernel, cpus))
        copy = host.directory('copy')
        with Vm(host, 'restored', '--restore', template, '--disk', 'top', '--paused') as vm:
            check_equal(vm.state(), ('paused', 256 << 20, cpus), 'state')
            vm.snapshot(copy)
            vm.control('quit')
            check_equal(vm.wait(60), 0, 'status')
        one, other = (decode(place, os.path.join(copy, f'decoded-{number}'))
                      for number, place in enumerate((template, copy)))
        check_equal(len(one['vcpus']), cpus, 'vCPUs in the state')
        check(len(one['devices']) >= 3, f'devices in the state: {len(one["devices"])}')
        compare_memory(template, copy, one)
        layers, more = without_time(one), without_time(other)
        check_equal(len(layers), 1, 'disks with layers')
        # The template's own base has no directory in its state; the other snapshot is elsewhere.
        check_equal([layer['path'] for layer in layers[0]], ['base.img'], 'layers of the template')
        for layer in layers[0]:
            layer['path'] = os.path.join(template, layer['path'])
        own = {'path': os.path.join(template, 'disk-0.img'), 'map': os.path.join(template, 'disk-0.map')}
        check_equal(more[0], layers[0] + [own], 'layers of the disk')
        check_equal(differences(one, other), [], 'differences')
    return test


TESTS = [
    ('snapshot-equality-1cpu', equality(1)),
    ('snapshot-equality-4cpus', equality(4)),
]
