"""The figures, their targets, and whether they hold. THE TABLE OF TARGETS IS HERE and nowhere else:
they are those of the sections "Must reach" of issue 4, "Restore at the kernel's own speed" (restore), issue 5,
"The sandbox API" (agent), and issue 6, "Isolation" (isolation)."""

import dataclasses
import math

HERE, BED = 'here', 'bed'  # this machine's /dev/kvm; the emulated host (tests/bed)


@dataclasses.dataclass(frozen=True)
class Figure:
    """`spore` and `against` are (samples' name, statistic). The ratio is the first by the second."""
    name: str
    where: str
    title: str
    spore: tuple
    against: tuple  # or None: the target is of Spore's figure itself, in `unit`
    column: str  # where `against` is shown: floor, firecracker, qemu, or spore for another of ours
    bound: float  # or None: no target, to be read beside the others
    words: str  # the target for people
    at_least: bool = False
    unit: str = 'us'
    suite: str = 'restore'


P50, P99 = 'p50', 'p99'
FIGURES = (
    Figure('ready_b2', HERE, 'ready path, B2, median', ('ready/128', P50), ('floor/128', P50),
           'floor', 1.3, '<= 1.3 x floor'),
    Figure('ready_b2_p99', HERE, 'ready path, B2, p99', ('ready/128', P99), ('floor/128', P99),
           'floor', 2, '<= 2 x floor'),
    Figure('parked_b2', HERE, 'parked clone, B2, median', ('parked/128', P50), ('floor/128', P50),
           'floor', 0.25, '<= 0.25 x floor'),
    Figure('cold_b2', HERE, 'cold path, B2, median', ('cold/128', P50), ('floor/128', P50),
           'floor', 3, '<= 3 x floor'),
    Figure('ready_4gib', HERE, 'ready path, 4 GiB by 128 MiB', ('ready/4096', P50),
           ('ready/128', P50), 'spore', 1.1, '<= 1.1'),
    Figure('parked_4gib', HERE, 'parked clone, 4 GiB by 128 MiB', ('parked/4096', P50),
           ('parked/128', P50), 'spore', 1.1, '<= 1.1'),
    Figure('cold_4gib', HERE, 'cold path, 4 GiB by 128 MiB', ('cold/4096', P50),
           ('cold/128', P50), 'spore', 1.1, '<= 1.1'),
    Figure('ready_500th', HERE, 'ready path, last of many by first', ('ready_many_alive/128', P50),
           ('ready/128', P50), 'spore', 1.5, '<= 1.5'),
    Figure('cold_500th', HERE, 'cold path, last of many by first', ('cold_many_alive/128', P50),
           ('cold/128', P50), 'spore', 1.5, '<= 1.5'),
    Figure('ready_32_rate', HERE, 'ready path, 32 at once, rate',
           ('ready_at_once', 'rate'), ('floor_at_once', 'rate'), 'floor', 0.8, '>= 0.8 x floor',
           at_least=True, unit='1/s'),
    Figure('cold_32_rate', HERE, 'cold path, 32 at once, rate',
           ('cold_at_once', 'rate'), ('floor_at_once', 'rate'), 'floor', 0.8, '>= 0.8 x floor',
           at_least=True, unit='1/s'),
    Figure('ready_firecracker', HERE, 'ready path, B2, by Firecracker waiting', ('ready/128', P50),
           ('firecracker_waiting/128', P50), 'firecracker', 0.1, '<= 1/10'),
    Figure('parked_firecracker', HERE, 'parked clone, B2, by Firecracker waiting', ('parked/128', P50),
           ('firecracker_waiting/128', P50), 'firecracker', 0.1, '<= 1/10'),
    Figure('cold_firecracker', HERE, 'cold path, B2, by Firecracker started', ('cold/128', P50),
           ('firecracker_start/128', P50), 'firecracker', 0.2, '<= 1/5'),
    *(Figure(f'linux_{way}_b3', BED, f'Linux: {way} path, B3 - B2 by the agent\'s round trip',
             (f'linux_{way}_b3_less_b2', P50), ('linux_ping', P50), 'spore', 2, '<= 2')
      for way in ('ready', 'parked', 'cold')),
    *(Figure(f'linux_{way}_b4', BED, f'Linux: {way} path, B4 - B3 by a warm exec',
             (f'linux_{way}_b4_less_b3', P50), ('linux_exec', P50), 'spore', 1.2, '<= 1.2')
      for way in ('ready', 'parked', 'cold')),
    Figure('linux_pss', BED, 'Linux: Pss of an idle clone, 256 MiB', ('linux_pss_kib', 'mean'),
           None, 'spore', 3072, '<= 3072 KiB', unit='KiB'),
    Figure('linux_ready_firecracker', BED, 'Linux: B4, ready path by Firecracker waiting',
           ('linux_ready_b4', P50), ('linux_firecracker_waiting_b4', P50), 'firecracker', 1 / 3,
           '<= 1/3'),
    Figure('linux_parked_firecracker', BED, 'Linux: B4, parked clone by Firecracker waiting',
           ('linux_parked_b4', P50), ('linux_firecracker_waiting_b4', P50), 'firecracker', 1 / 3,
           '<= 1/3'),
    Figure('linux_cold_firecracker', BED, 'Linux: B4, cold path by Firecracker started',
           ('linux_cold_b4', P50), ('linux_firecracker_start_b4', P50), 'firecracker', 1 / 3,
           '<= 1/3'),
    Figure('linux_ready_qemu', BED, 'Linux: B4, ready path by QEMU -incoming',
           ('linux_ready_b4', P50), ('linux_qemu_b4', P50), 'qemu', 1 / 3, '<= 1/3'),
    Figure('linux_cold_qemu', BED, 'Linux: B4, cold path by QEMU -incoming',
           ('linux_cold_b4', P50), ('linux_qemu_b4', P50), 'qemu', 1 / 3, '<= 1/3'),
    Figure('agent_exec', BED, 'warm exec of /bin/true by fork + exec + wait in the guest',
           ('agent_exec', P50), ('agent_guest_exec', P50), 'floor', 1.5, '<= 1.5 x floor', suite='agent'),
    Figure('agent_first_byte', BED, 'first byte of output by a round trip', ('agent_first_byte', P50),
           ('agent_ping', P50), 'spore', 1, '<= 1', suite='agent'),
    *(Figure(f'agent_{place}_{way}', BED, f'file {way} ({words}) by a bare stream',
             (f'agent_{place}_{way}_mibs', P50), (f'agent_bare_{bare}_mibs', P50), 'floor', 0.6,
             '>= 0.6 x floor', at_least=True, unit='MiB/s', suite='agent')
      for place, words in (('memory', 'tmpfs'), ('disk', 'its disk'))
      for way, bare in (('write', 'in'), ('read', 'out'))),
    *(Figure(f'agent_{place}_{way}_loop', BED, f'file {way} ({words}) by a C loop in the guest',
             (f'agent_{place}_{way}_mibs', P50), (f'agent_guest_{place}_{way}_mibs', P50), 'floor', None,
             '-', unit='MiB/s', suite='agent')
      for place, words in (('memory', 'tmpfs'), ('disk', 'its disk')) for way in ('write', 'read')),
    Figure('agent_rss', BED, 'resident memory of the agent', ('agent_rss_kib', P50), None, 'spore', 4096,
           '<= 4096 KiB', unit='KiB', suite='agent'),
    Figure('agent_binary', BED, 'size of the agent\'s binary', ('agent_binary_kib', P50), None, 'spore',
           3e6 / 1024, '<= 3 MB', unit='KiB', suite='agent'),
    Figure('limited_ready_b2', HERE, 'ready path, B2, with network and quotas by without', ('here/limited_b2', P50),
           ('here/plain_b2', P50), 'spore', 1.1, '<= 1.1', suite='isolation'),
    Figure('limited_ready_b3', BED, 'Linux: ready path, B3, what both add by the agent\'s round trip',
           ('bed/b3_added', P50), ('bed/ping', P50), 'spore', 1, '<= 1', suite='isolation'),
    Figure('unlimited_device', HERE, 'block request, what a device without a limit asks, by all of it',
           ('queue/no_limit', P50), ('queue/block_requests/limited:0', P50), 'spore', 0.02, '<= 0.02',
           suite='isolation'),
    Figure('rates', HERE, 'rates of disk and network over 10 s, the one furthest from its limit',
           ('rate_off_percent', 'max'), None, 'spore', 5, '<= 5 %', unit='%', suite='isolation'),
    Figure('unlimited_again', HERE, 'block request, a device set back to no limit by one never limited',
           ('queue/block_requests/limited:2', P50), ('queue/block_requests/limited:0', P50), 'spore', 1.02, '<= 1.02',
           suite='isolation'),
    Figure('quiet_median', BED, 'exec beside a noisy sandbox by alone, median', ('isolation_beside', P50),
           ('isolation_alone', P50), 'spore', 1.5, '<= 1.5', suite='isolation'),
    Figure('quiet_p99', BED, 'exec beside a noisy sandbox by alone, p99', ('isolation_beside', P99),
           ('isolation_alone', P99), 'spore', 3, '<= 3', suite='isolation'),
)


def quantile(samples, part):
    """By nearest rank: the least sample that `part` of all are no greater than. Of 100, p99 is the last but one."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def statistic(samples, which, at_once):
    """`at_once`: how many machines one sample of a rate made."""
    if which == 'max':
        return max(samples)
    if which == 'mean':
        return sum(samples) / len(samples)
    if which == 'rate':
        return at_once / (quantile(samples, 0.5) / 1e6)
    return quantile(samples, 0.99 if which == P99 else 0.5)


def why_not(figure, samples, skipped):
    for name, _ in filter(None, (figure.spore, figure.against)):
        if not samples.get(name):
            return f'{name}: ' + skipped.get(name, 'not measured')
    return ''


def judge(figure, samples, skipped, at_once):
    """One object of the JSON: figure, spore, floor, peers, ratio, target, holds, and more."""
    result = {'figure': figure.name, 'title': figure.title, 'where': figure.where,
              'unit': figure.unit, 'spore': None, 'floor': None, 'peers': {}, 'ratio': None,
              'target': figure.words, 'bound': figure.bound, 'holds': None,
              'why_not_measured': why_not(figure, samples, skipped)}

    def value(source):
        name, which = source
        if not samples.get(name):
            return None
        return statistic(samples[name], which, at_once)

    result['spore'] = value(figure.spore)
    result['samples'] = len(samples.get(figure.spore[0], ()))
    other = value(figure.against) if figure.against else None
    if figure.column == 'floor':
        result['floor'] = other
    elif figure.against:
        result['peers'][figure.column if figure.column != 'spore' else figure.against[0]] = other
    if result['why_not_measured']:
        return result
    result['ratio'] = result['spore'] / other if figure.against else None
    if figure.bound is None:
        return result
    measure = result['ratio'] if figure.against else result['spore']
    result['holds'] = measure >= figure.bound if figure.at_least else measure <= figure.bound
    return result


def judge_all(samples, skipped, at_once, suites):
    return [judge(figure, samples, skipped, at_once) for figure in FIGURES if figure.suite in suites]
