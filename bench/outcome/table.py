"""The table that people get."""


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
    holds = {True: 'yes', False: 'NO', None: 'not measured'}[result['holds']]
    return (result['title'], number(result['spore'], unit), number(result['floor'], unit),
            peers or '-', number(result['ratio']), result['target'], holds)


def text(results):
    rows = [('figure', 'Spore', 'floor', 'beside', 'ratio', 'target', 'holds')]
    rows += [row(result) for result in results]
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
             for line in rows]
    lines.insert(1, '  '.join('-' * width for width in widths))
    missing = sorted({result['why_not_measured'] for result in results} - {''})
    return '\n'.join(lines + [f'not measured: {why}' for why in missing])
