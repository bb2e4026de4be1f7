"""The report: one HTML page with its plots in it, nothing to fetch."""

import html

from outcome import figures, table

COLOURS = ('#1f77b4', '#d62728', '#2ca02c', '#9467bd', '#ff7f0e', '#8c564b', '#17becf', '#7f7f7f')
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 300, 70, 16, 44
STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:3px 8px;text-align:left}
.yes{background:#dff3df}.NO{background:#f8d7d7}svg text{font:11px system-ui,sans-serif}
.note{color:#555;font-size:13px}"""


def text_at(x, y, words, anchor='start', colour='#333'):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(words)}</text>'


def line(points, colour):
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>'


def frame(parts, x_label, y_label):
    bottom = HEIGHT - BOTTOM
    axes = line([(LEFT, TOP), (LEFT, bottom), (WIDTH - 10, bottom)], '#333')
    labels = text_at((LEFT + WIDTH) / 2, HEIGHT - 6, x_label, 'middle') + text_at(4, 12, y_label)
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">' + axes + labels +
            ''.join(parts) + '</svg>')


class Scale:
    """Values from 0 to `most` over a stretch of pixels."""

    def __init__(self, most, start, end):
        self.most, self.start, self.end = most or 1, start, end

    def __call__(self, value):
        return self.start + (self.end - self.start) * min(value, self.most) / self.most

    def ticks(self):
        return [self.most * step / 5 for step in range(6)]


def x_ticks(scale):
    return [text_at(scale(tick), HEIGHT - BOTTOM + 15, table.number(tick), 'middle')
            for tick in scale.ticks()]


def y_ticks(scale):
    return [text_at(LEFT - 6, scale(tick) + 4, table.number(tick), 'end') for tick in scale.ticks()]


def legend(names):
    return [text_at(WIDTH - 14, TOP + 14 + 15 * index, name, 'end', COLOURS[index % len(COLOURS)])
            for index, name in enumerate(names)]


def distributions(series):
    """Cumulative: which part of the samples took no longer than so many us."""
    x = Scale(max(figures.quantile(values, 0.99) for values in series.values()) * 1.05, LEFT,
              WIDTH - 10)
    y = Scale(1, HEIGHT - BOTTOM, TOP)
    parts = x_ticks(x) + y_ticks(y) + legend(series)
    for index, values in enumerate(series.values()):
        ordered = sorted(values)
        points = [(x(value), y((rank + 1) / len(ordered))) for rank, value in enumerate(ordered)]
        parts.append(line(points, COLOURS[index % len(COLOURS)]))
    return frame(parts, 'us', 'part of the samples')


def bars(values):
    """name -> us."""
    y = Scale(max(values.values()) * 1.15, HEIGHT - BOTTOM, TOP)
    parts = y_ticks(y)
    step = (WIDTH - LEFT - 20) / len(values)
    for index, (name, value) in enumerate(values.items()):
        left, top = LEFT + 8 + index * step, y(value)
        parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{step * 0.7:.1f}" '
                     f'height="{HEIGHT - BOTTOM - top:.1f}" fill="{COLOURS[index % len(COLOURS)]}"/>')
        parts.append(text_at(left + step * 0.35, top - 4, table.number(value), 'middle'))
        parts.append(text_at(left + step * 0.35, HEIGHT - BOTTOM + 15, name, 'middle'))
    return frame(parts, '', 'us, median')


def by_number(values):
    """Medians of ten neighbours each, so that the course can be seen."""
    groups = [values[start:start + 10] for start in range(0, len(values), 10)]
    medians = [figures.quantile(group, 0.5) for group in groups]
    x = Scale(len(values), LEFT, WIDTH - 10)
    y = Scale(max(medians) * 1.15, HEIGHT - BOTTOM, TOP)
    points = [(x(10 * index + 5), y(value)) for index, value in enumerate(medians)]
    return frame(x_ticks(x) + y_ticks(y) + [line(points, COLOURS[0])], 'clones alive',
                 'us to B2, medians of ten')


def stages(samples, path):
    """Medians and 99th percentiles of each stage, in order."""
    rows = table.stage_rows(samples, path)
    if not rows:
        return ''
    most = max(p99 for _, _, p99 in rows)
    height = 18 * len(rows) + 30
    parts = []
    for index, (name, p50, p99) in enumerate(rows):
        y = 18 * index + 6
        parts.append(text_at(130, y + 11, name, 'end'))
        for value, colour in ((p99, '#c6dbef'), (p50, '#1f77b4')):
            parts.append(f'<rect x="140" y="{y}" width="{430 * value / most:.1f}" height="13" fill="{colour}"/>')
        parts.append(text_at(150 + 430 * p99 / most, y + 11,
                             f'{table.number(p50)} / {table.number(p99)} us'))
    return (f'<h3>{html.escape(path)}</h3><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">' +
            ''.join(parts) + '</svg>')


def section(title, note, body):
    if not body:
        body = '<p class="note">not measured</p>'
    return f'<h2>{html.escape(title)}</h2><p class="note">{html.escape(note)}</p>{body}'


def result_table(results):
    head = ''.join(f'<th>{name}</th>' for name in
                   ('figure', 'Spore', 'floor', 'beside', 'ratio', 'target', 'holds'))
    rows = ''
    for result in results:
        cells = table.row(result)
        rows += f'<tr class="{cells[-1].split()[0]}">' + ''.join(
            f'<td>{html.escape(cell)}</td>' for cell in cells) + '</tr>'
    return f'<table><tr>{head}</tr>{rows}</table>'


BOUNDARIES = (
    ('B1: the VM is built', ('cold_b1/128', 'ready_b1/128')),
    ('B2: the first exit after the first instruction',
     ('floor/128', 'parked/128', 'ready/128', 'cold/128', 'firecracker_waiting/128',
      'firecracker_start/128')),
    ('B2 of a Linux guest, emulated host', ('linux_parked_b2', 'linux_ready_b2', 'linux_cold_b2')),
    ('B3: the agent has confirmed, emulated host',
     ('linux_parked_b3', 'linux_ready_b3', 'linux_cold_b3')),
    ('B4: the first command has ended, emulated host',
     ('linux_parked_b4', 'linux_ready_b4', 'linux_cold_b4', 'linux_firecracker_waiting_b4',
      'linux_firecracker_start_b4', 'linux_qemu_b4')),
)


def page(results, samples, about):
    def present(names):
        return {name: samples[name] for name in names if samples.get(name)}

    body = ['<h1>Spore: restore</h1>', f'<p class="note">{html.escape(about)}</p>',
            result_table(results)]
    for title, names in BOUNDARIES:
        found = present(names)
        body.append(section(title, 'Distribution; the 1% beyond p99 is cut off.',
                            distributions(found) if found else ''))
    sizes = present(('floor/128', 'floor/4096', 'ready/128', 'ready/4096', 'cold/128', 'cold/4096'))
    body.append(section('Cost by memory size', 'B2, by path and MiB of the image.', bars(
        {name: figures.quantile(values, 0.5) for name, values in sizes.items()}) if sizes else ''))
    for path in ('ready', 'cold'):
        alive = samples.get(f'{path}_by_number_alive')
        body.append(section(f'Cost by number alive, {path} path', 'B2 of each clone of a row, none ended.',
                            by_number(alive) if alive else ''))
    body.append(section('Stages', 'From the end of the one before; median (dark) and p99.',
                        ''.join(stages(samples, path) for path in table.STAGED)))
    return ('<!doctype html><html lang="en"><meta charset="utf-8"><title>Spore: restore</title>'
            f'<style>{STYLE}</style><body>' + '\n'.join(body) + '</body></html>\n')
