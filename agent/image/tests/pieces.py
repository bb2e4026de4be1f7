"""Tests of the parts that need neither network nor root."""

import os
import stat
import subprocess
import unittest.mock

from guest_image import apt, command, cpio, elf, failure, files, initramfs, kernel_stock
from guest_image import kernel_tuned, recipe
from tests import support


def expect_failure(code, call, *words):
    try:
        call()
    except failure.Failure as caught:
        assert caught.code == code, f'{caught.code}: {caught}'
        for word in words:
            assert word in str(caught), f'{word!r} is not in {caught}'
        return
    raise AssertionError('it did not fail')


def make_kernel_directory(modules=('b.ko', 'a.ko')):
    directory = support.scratch_directory()
    os.mkdir(os.path.join(directory, 'modules'))
    for name in modules:
        support.write(os.path.join(directory, 'modules', name), f'module {name}')
    support.write(os.path.join(directory, 'modules.list'), ''.join(f'{m}\n' for m in modules))
    return directory


def test_names_of_images_are_checked():
    for good in ('a', '0', 'debian', 'a-b', 'a' * 63):
        failure.check_name(good)
    for bad in ('', '-a', 'a-', 'A', 'a_b', 'a/b', '.', '..', 'a' * 64, 'a\n', 'ä'):
        expect_failure('invalid_argument', lambda bad=bad: failure.check_name(bad), '1 to 63')


def test_cpio_is_read_back_by_cpio():
    archive = cpio.Archive()
    archive.file('etc/deep/file', b'12345', 0o640)
    archive.symlink('link', 'etc/deep/file')
    archive.character_device('dev/console', 5, 1)
    path = os.path.join(support.scratch_directory(), 'a.cpio')
    files.write_file(path, archive.data())
    listing = subprocess.run(['cpio', '-tvn'], stdin=open(path, 'rb'), capture_output=True,
                             text=True, check=True).stdout.splitlines()
    assert [line.split()[-1] for line in listing if ' -> ' not in line] == \
        ['dev', 'dev/console', 'etc', 'etc/deep', 'etc/deep/file'], listing
    console = next(line for line in listing if line.endswith('dev/console'))
    assert console.startswith('crw-------') and '5,' in console, console
    assert any(line.startswith('-rw-r-----') and ' 5 ' in line for line in listing), listing
    content = subprocess.run(['cpio', '-i', '--quiet', '--to-stdout', 'etc/deep/file'],
                             stdin=open(path, 'rb'), capture_output=True, check=True).stdout
    assert content == b'12345'


def test_cpio_refuses_a_path_twice():
    archive = cpio.Archive()
    archive.file('a', b'')
    try:
        archive.file('/a', b'')
    except ValueError:
        return
    raise AssertionError('it was taken')


def test_initramfs_has_agent_modules_and_their_order():
    directory = make_kernel_directory()
    out = os.path.join(directory, 'initramfs.img')
    done = support.program('mkinitramfs', '--agent', support.static_agent(1), '--kernel-dir',
                           directory, '--out', out)
    assert done.returncode == 0, done.stderr
    first = open(out, 'rb').read()
    listing = subprocess.run(['cpio', '-t', '--quiet'], input=first, capture_output=True,
                             check=True).stdout.decode().split()
    for path in ('init', 'dev/console', 'proc', 'sys', 'newroot', 'etc/spore/modules',
                 'lib/modules/a.ko', 'lib/modules/b.ko'):
        assert path in listing, listing
    order = subprocess.run(['cpio', '-i', '--quiet', '--to-stdout', 'etc/spore/modules'],
                           input=first, capture_output=True, check=True).stdout
    assert order == b'/lib/modules/b.ko\n/lib/modules/a.ko\n', order
    agent = subprocess.run(['cpio', '-i', '--quiet', '--to-stdout', 'init'], input=first,
                           capture_output=True, check=True).stdout
    assert agent == open(support.static_agent(1), 'rb').read()
    again = initramfs.make(support.static_agent(1), directory)
    assert again == first, 'the same inputs gave other bytes'


def test_initramfs_is_compressed_as_asked():
    directory = make_kernel_directory()
    plain = initramfs.make(support.static_agent(1), directory)
    for name, argv in (('gzip', ['gzip', '-dc']), ('lz4', ['lz4', '-dc'])):
        packed = initramfs.make(support.static_agent(1), directory, compression=name)
        assert len(packed) < len(plain)
        unpacked = subprocess.run(argv, input=packed, capture_output=True, check=True).stdout
        assert unpacked == plain


def test_initramfs_refuses_what_cannot_be_init():
    directory = make_kernel_directory()
    out = os.path.join(directory, 'out.img')
    for agent, status, word in (('/nonexistent', 66, 'no such file'), ('/etc', 64, 'directory'),
                                ('/etc/passwd', 64, 'ELF'), ('/bin/bash', 64, 'static')):
        done = support.program('mkinitramfs', '--agent', agent, '--kernel-dir', directory,
                               '--out', out)
        support.expect_error(done, status, word)
        assert not os.path.exists(out)
    done = support.program('mkinitramfs', '--agent', support.static_agent(1), '--kernel-dir',
                           support.settings.scratch, '--out', out)
    support.expect_error(done, 66, 'modules.list')


def test_modules_are_ordered_by_what_they_need():
    needs = {'c': ['b,a'], 'b': ['a'], 'a': [''], 'x': ['']}
    softly = {'a': ['pre: x-y']}
    paths = {name: name for name in (*needs, 'x_y')}
    with unittest.mock.patch.object(elf, 'module_info', lambda path: {
            'depends': needs.get(path, ['']), 'softdep': softly.get(path, [])}):
        ordered = kernel_stock.order_modules(['c', 'built'], {'built'}, paths)
        assert [name for name, _ in ordered] == ['x_y', 'a', 'b', 'c'], ordered
        expect_failure('not_found', lambda: kernel_stock.order_modules(['no'], set(), paths), 'no')
        needs['a'] = ['c']
        expect_failure('corrupt', lambda: kernel_stock.order_modules(['c'], set(), paths))


def test_elf_reader_survives_cut_files():
    whole = open(support.static_agent(1), 'rb').read()
    path = os.path.join(support.scratch_directory(), 'cut')
    for length in range(0, len(whole), max(1, len(whole) // 97)):
        files.write_file(path, whole[:length])
        for call in (elf.check_static, elf.module_info):
            try:
                call(path)
            except failure.Failure as caught:
                assert caught.code in ('invalid_argument', 'corrupt')


def test_built_in_recipes_load():
    debian = recipe.load('debian', ['jq'])
    assert debian.base == 'debian' and debian.suite == 'bookworm'
    assert {'python3', 'git', 'busybox-static', 'jq'} <= set(debian.packages)
    busybox = recipe.load('busybox')
    assert busybox.base == 'busybox' and not busybox.packages and busybox.suite is None
    assert debian.fingerprint() != recipe.load('debian').fingerprint()


def test_recipe_files_extend_others():
    directory = support.scratch_directory()
    support.write(os.path.join(directory, 'motd'), 'hello\n')
    path = support.write(os.path.join(directory, 'mine.json'), '''{"format": 1,
        "extends": "debian", "packages": ["jq"], "free_space": "1G", "run": ["true"],
        "files": [{"path": "/etc/motd", "source": "motd", "mode": "0600", "owner": "1:2"}]}''')
    plan = recipe.load(path)
    assert {'jq', 'git'} <= set(plan.packages) and plan.free_space == 1 << 30
    assert (plan.files[0].data, plan.files[0].mode, plan.files[0].uid, plan.files[0].gid) == \
        (b'hello\n', 0o600, 1, 2)
    before = plan.fingerprint()
    support.write(os.path.join(directory, 'motd'), 'other\n')
    assert recipe.load(path).fingerprint() != before


def test_bad_recipes_are_refused():
    directory = support.scratch_directory()
    path = os.path.join(directory, 'bad.json')
    for text, code, word in (
            ('{', 'invalid_argument', 'not JSON'),
            ('[]', 'invalid_argument', 'object'),
            ('{"base": "debian"}', 'version_mismatch', 'format'),
            ('{"format": 2, "base": "debian"}', 'version_mismatch', '2'),
            ('{"format": 1}', 'invalid_argument', 'base'),
            ('{"format": 1, "base": "alpine"}', 'invalid_argument', 'alpine'),
            ('{"format": 1, "base": "debian", "extends": "debian"}', 'invalid_argument', 'both'),
            ('{"format": 1, "extends": "bad.json"}', 'invalid_argument', 'deep'),
            ('{"format": 1, "extends": "nothing"}', 'not_found', 'nothing'),
            ('{"format": 1, "base": "debian", "colour": 1}', 'invalid_argument', 'colour'),
            ('{"format": 1, "base": "debian", "packages": ["../x"]}', 'invalid_argument', '../x'),
            ('{"format": 1, "base": "debian", "packages": ["--help"]}', 'invalid_argument', ''),
            ('{"format": 1, "base": "busybox", "packages": ["jq"]}', 'invalid_argument',
             'busybox takes no packages'),
            ('{"format": 1, "base": "debian", "suite": "a/b"}', 'invalid_argument', 'a/b'),
            ('{"format": 1, "base": "debian", "free_space": "0M"}', 'invalid_argument', '0M'),
            ('{"format": 1, "base": "debian", "free_space": "9999G"}', 'invalid_argument', '1024G'),
            ('{"format": 1, "base": "debian", "files": [{"path": "/../x", "content": ""}]}',
             'invalid_argument', '/../x'),
            ('{"format": 1, "base": "debian", "files": [{"path": "/x"}]}', 'invalid_argument', '/x'),
            ('{"format": 1, "base": "debian", "files": [{"path": "/x", "source": "no"}]}',
             'not_found', 'no'),
            ('{"format": 1, "base": "debian", "files": [{"path": "/x", "content": "", '
             '"mode": "rw"}]}', 'invalid_argument', 'octal')):
        support.write(path, text)
        expect_failure(code, lambda: recipe.load(path), word)
    expect_failure('not_found', lambda: recipe.load('no-such-recipe'), 'debian')
    expect_failure('not_found', lambda: recipe.load(os.path.join(directory, 'none.json')))
    expect_failure('invalid_argument', lambda: recipe.load('debian', ['Bad']), 'Bad')


def test_kernel_settings_are_read():
    path = support.write(os.path.join(support.scratch_directory(), 'config'),
                         'CONFIG_A=y\n# CONFIG_B is not set\n# a remark\nCONFIG_C="x=y"\n')
    assert kernel_tuned.settings(path) == {'CONFIG_A': 'y', 'CONFIG_B': 'n', 'CONFIG_C': '"x=y"'}
    ours = kernel_tuned.settings(kernel_tuned.CONFIG)
    for name in ('SMP', 'PVH', 'KVM_GUEST', 'VIRTIO_PCI', 'VIRTIO_BLK', 'VIRTIO_VSOCKETS',
                 'EXT4_FS', 'OVERLAY_FS', 'SECCOMP_FILTER', 'SERIAL_8250_CONSOLE'):
        assert ours[f'CONFIG_{name}'] == 'y', name


def test_guests_get_no_password_of_the_machines_apt():
    lines = apt.guest_source_lines([('https://user:secret@mirror.example/debian/', 'bookworm')])
    assert lines == ['deb https://mirror.example/debian/ bookworm main'], lines


def test_directories_are_exchanged_in_one_step():
    directory = support.scratch_directory()
    for name in ('old', 'new'):
        os.mkdir(os.path.join(directory, name))
        support.write(os.path.join(directory, name, name), '')
    files.put_directory(os.path.join(directory, 'new'), os.path.join(directory, 'old'))
    assert support.tree(directory) == ['new', 'new/old', 'old', 'old/new']
    files.put_directory(os.path.join(directory, 'new'), os.path.join(directory, 'third'))
    assert support.tree(directory) == ['old', 'old/new', 'third', 'third/old']


def test_failed_programs_last_words_are_told():
    expect_failure('internal', lambda: command.run(['sh', '-c', 'echo fine; echo why; exit 3'],
                                                   'thing'), 'thing', '3', 'why')
    for lines, expected in ((['a', 'E: no such package x', 'b'], 'E: no such package x'),
                            (['I: running', 'tool: bad', 'E: command failed: tool',
                              'E: setup failed'], 'tool: bad'),
                            (['cc', 'x.c:1: error: y', 'make: *** [x] 1'], 'x.c:1: error: y'),
                            (['', 'I: done'], 'I: done'), ([], 'it said nothing')):
        assert command.last_words(lines) == expected, (lines, command.last_words(lines))


def test_missing_programs_are_told_by_their_package():
    with unittest.mock.patch.dict(command.PACKAGES, {'no-such-program': 'its-package'}):
        expect_failure('host_unsupported', lambda: command.need_programs('no-such-program'),
                       'no-such-program', 'its-package')


def test_written_files_are_whole_and_readable():
    path = os.path.join(support.scratch_directory(), 'file')
    files.write_file(path, b'1')
    files.write_file(path, b'2')
    assert open(path, 'rb').read() == b'2' and os.listdir(os.path.dirname(path)) == ['file']
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
