"""The tables that people get."""

from outcome import figures

STAGED = ('parked', 'ready', 'cold', 'ready_at_once', 'cold_at_once')
# Those of the host's half alone, of the isolation suite.
LIMITED = ('here/plain', 'here/limited', 'bed/plain', 'bed/limited')


def number(value, unit=''):
    if value is None:
        return '-'
    if value >= 1000:
        text = f'{value:,.0f}'
    elif value >= 10:
        text = f'{value:.1f}'
    else:
        text = f'{value:.2f}'
    return f'{text} {unit}'.strip()


def row(result):
    unit = result['unit']
    peers = ', '.join(f'{name} {number(value, unit)}' for name, value in result['peers'].items())
    without = '-' if result['bound'] is None and not result['why_not_measured'] else 'not measured'
    holds = {True: 'yes', False: 'NO', None: without}[result['holds']]
    return (result['title'], number(result['spore'], unit), number(result['floor'], unit),
            peers or '-', number(result['ratio']), result['target'], holds)


def stage_rows(samples, path):
    """(stage, median, p99) of each, in order."""
    prefix = f'stage/{path}/'
    return [(name[len(prefix) + 3:], figures.quantile(values, 0.5), figures.quantile(values, 0.99))
            for name, values in sorted(samples.items()) if name.startswith(prefix)]


def stages(samples):
    """Where the time of each path goes: the end of each stage from the end of the one before."""
    lines = ['stages, us: median / p99']
    for path in STAGED + LIMITED:
        rows = stage_rows(samples, path)
        if rows:
            lines.append(f'  {path}: ' + ', '.join(
                f'{name} {number(p50)} / {number(p99)}' for name, p50, p99 in rows))
    return '\n'.join(lines) if len(lines) > 1 else ''


def text(results):
    rows = [('figure', 'Spore', 'floor', 'beside', 'ratio', 'target', 'holds')]
    rows += [row(result) for result in results]
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
             for line in rows]
    lines.insert(1, '  '.join('-' * width for width in widths))
    missing = sorted({result['why_not_measured'] for result in results} - {''})
    return '\n'.join(lines + [f'not measured: {why}' for why in missing])
