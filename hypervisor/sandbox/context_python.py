# Runs code for Spore in one interpreter that keeps its state (hypervisor/sandbox/code_context.h).
# Takes requests, one JSON document a line, on stdin and answers likewise on stdout; both are moved to
# descriptors that the code does not meet, and what the code writes to 1 and 2 becomes answers.
import ast
import asyncio
import base64
import builtins
import fcntl
import inspect
import io
import json
import linecache
import os
import select
import signal
import sys
import threading
import traceback
import types

TEXT_BYTES_MAX = 1 << 20   # of stdout and of stderr, in one run
DATA_BYTES_MAX = 4 << 20   # of all that is shown in one run, as it is sent
CHUNK_BYTES = 16384
DESCRIPTOR_MIN = 200       # above what a program that closes "all" its descriptors usually tries
MIME_METHODS = (
    ('text/html', '_repr_html_'), ('text/markdown', '_repr_markdown_'), ('text/latex', '_repr_latex_'),
    ('image/svg+xml', '_repr_svg_'), ('image/png', '_repr_png_'), ('image/jpeg', '_repr_jpeg_'),
    ('application/json', '_repr_json_'))


def private(descriptor):
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, DESCRIPTOR_MIN)


class Driver:
    def __init__(self):
        self.pid = os.getpid()
        self.requests = os.fdopen(private(0), 'rb')
        self.answers = private(1)
        self.lock = threading.RLock()
        self.run_id = 0
        self.count = 0
        self.running = False
        self.data_left = 0
        self.left = {}
        self.cut = False
        self.ends = {}    # by descriptor: both ends of the pipe behind it
        self.partial = {} # a character's first bytes, by descriptor
        for descriptor in (1, 2):
            self.ends[descriptor] = self.pipe()
        self.restore_descriptors()
        null = os.open('/dev/null', os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        threading.Thread(target=self.forward, daemon=True).start()
        signal.signal(signal.SIGINT, self.interrupted)
        self.module = types.ModuleType('__main__')
        self.module.__dict__.update(__builtins__=builtins, display=self.display)
        sys.modules['__main__'] = self.module
        self.loop = None  # for top-level await

    @staticmethod
    def pipe():
        made = os.pipe()
        ends = [private(end) for end in made]
        for end in made:
            os.close(end)
        os.set_blocking(ends[0], False)
        return ends

    def interrupted(self, *_):
        if self.running:
            raise KeyboardInterrupt

    def restore_descriptors(self):
        """What the last run may have closed or put elsewhere."""
        for descriptor, (_, write_end) in self.ends.items():
            os.dup2(write_end, descriptor)
        for descriptor, name in ((1, 'stdout'), (2, 'stderr')):
            stream = getattr(sys, name, None)
            if stream is None or stream is not getattr(sys, f'__{name}__') or stream.closed:
                stream = io.TextIOWrapper(
                    io.FileIO(descriptor, 'w', closefd=False), encoding='utf-8',
                    errors='backslashreplace', write_through=True)
                setattr(sys, name, stream)
                setattr(sys, f'__{name}__', stream)

    def answer(self, kind, **fields):
        line = json.dumps({'run': self.run_id, 'type': kind, **fields}, ensure_ascii=False,
                          separators=(',', ':')).encode(errors='replace') + b'\n'
        with self.lock:
            while line:
                line = line[os.write(self.answers, line):]

    def forward(self):
        """What is written to 1 and 2, from whatever thread or process."""
        while True:
            select.select([ends[0] for ends in self.ends.values()], [], [])
            self.drain()

    def drain(self):
        with self.lock:
            for descriptor, ends in self.ends.items():
                while True:
                    try:
                        chunk = os.read(ends[0], CHUNK_BYTES)
                    except BlockingIOError:
                        break
                    self.write(descriptor, chunk)

    def write(self, descriptor, chunk):
        left = self.left.get(descriptor, 0)
        self.cut |= len(chunk) > left
        chunk = chunk[:left]
        self.left[descriptor] = left - len(chunk)
        if not chunk:
            return
        kind = 'stdout' if descriptor == 1 else 'stderr'
        chunk = self.partial.pop(descriptor, b'') + chunk
        try:
            self.answer(kind, text=chunk.decode())
        except UnicodeDecodeError as error:
            # A character whose rest is still to come waits for it.
            if error.reason == 'unexpected end of data' and error.start > 0:
                self.partial[descriptor] = chunk[error.start:]
                self.answer(kind, text=chunk[:error.start].decode())
            else:
                self.answer(kind, base64=base64.b64encode(chunk).decode())

    def flush(self):
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # whatever the code has put there
                pass
        self.drain()
        for descriptor, chunk in list(self.partial.items()):
            del self.partial[descriptor]
            self.answer('stdout' if descriptor == 1 else 'stderr', base64=base64.b64encode(chunk).decode())

    def show(self, kind, data):
        """The forms of one value, the smaller ones first where not all may be sent."""
        fitting = {}
        for mime, content in sorted(data.items(), key=lambda item: len(item[1])):
            if len(content) <= self.data_left:
                self.data_left -= len(content)
                fitting[mime] = content
            else:
                self.cut = True
        if fitting:
            self.flush()
            self.answer(kind, data=fitting)

    def display(self, *values):
        for value in values:
            self.show('display', forms_of(value))

    def show_figures(self):
        """What matplotlib has drawn and not shown, as a notebook does."""
        pyplot = sys.modules.get('matplotlib.pyplot')
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            image = io.BytesIO()
            pyplot.figure(number).savefig(image, format='png', bbox_inches='tight')
            self.show('display', {'image/png': base64.b64encode(image.getvalue()).decode()})
        pyplot.close('all')

    def evaluate(self, code, name):
        tree = ast.parse(code, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        value = None
        for part, mode in ((tree, 'exec'), (last, 'eval')):
            if part is None:
                continue
            compiled = compile(part, name, mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            value = eval(compiled, self.module.__dict__)
            if compiled.co_flags & inspect.CO_COROUTINE:
                self.loop = self.loop or asyncio.new_event_loop()
                value = self.loop.run_until_complete(value)
        if last is not None and value is not None:
            self.module.__dict__['_'] = value
            self.show('result', forms_of(value))
        self.show_figures()

    def run(self, request):
        self.run_id = request['run']
        self.count += 1
        name = f'<run {self.count}>'
        code = request['code']
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        self.left = {1: TEXT_BYTES_MAX, 2: TEXT_BYTES_MAX}
        self.data_left = DATA_BYTES_MAX
        self.cut = False
        self.restore_descriptors()
        status = 'ok'
        try:
            try:
                self.running = True
                self.evaluate(code, name)
            finally:
                self.running = False
        except KeyboardInterrupt as error:
            status = 'interrupted'
            failure = error
        except BaseException as error:  # SystemExit too: it ends the run and not the context
            status = 'error'
            failure = error
        if os.getpid() != self.pid:  # a fork of the code's that has come here
            os._exit(0)
        self.flush()
        if status != 'ok':
            self.answer('error', **described(failure, name))
        self.answer('end', status=status, truncated=self.cut)

    def serve(self):
        self.answer('ready', language='python', version=sys.version.split()[0])
        for line in self.requests:
            self.run(json.loads(line))


def described(error, name):
    """With the frames of the code alone."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    if trace is None and not isinstance(error, SyntaxError):
        trace = error.__traceback__
    text = ''.join(traceback.format_exception(type(error), error, trace))
    try:
        value = str(error)
    except Exception:
        value = 'its text cannot be made'
    return {'name': type(error).__name__, 'value': value[:65536], 'traceback': text[-262144:]}


def forms_of(value):
    forms = {}
    for mime, method in MIME_METHODS:
        maker = getattr(type(value), method, None)
        if maker is None:
            continue
        content = maker(value)
        if isinstance(content, tuple):  # with its metadata
            content = content[0]
        if isinstance(content, bytes):
            content = base64.b64encode(content).decode()
        elif mime == 'application/json' and content is not None:
            content = json.dumps(content)
        if isinstance(content, str):
            forms[mime] = content
    if isinstance(value, (dict, list, tuple)) and 'application/json' not in forms:
        try:
            forms['application/json'] = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            pass
    forms['text/plain'] = repr(value)
    return forms


os.environ.setdefault('MPLBACKEND', 'Agg')
sys.argv = ['']
Driver().serve()
