'use strict';
// Runs code for Spore in one interpreter that keeps its state (hypervisor/sandbox/code_context.h):
// requests, one JSON document a line, on stdin; answers likewise on stdout. Node cannot move its own
// descriptors away, so the code runs in a child, whose stdout and stderr are pipes of ours.

const TEXT_BYTES_MAX = 1 << 20;  // of stdout and of stderr, in one run
const DATA_BYTES_MAX = 4 << 20;  // of all that is shown in one run

function child() {
  const fs = require('fs');
  const util = require('util');
  const vm = require('vm');
  const send = process.send.bind(process);
  let stop = null;  // of a run that waits
  process.on('SIGINT', () => stop && stop());
  // Like Node's own prompt: globals of this very context, so that instanceof and require work.
  const scope = globalThis;
  scope.require = require('module').createRequire(process.cwd() + '/');
  delete process.send;

  function forms(value) {
    const data = {};
    const html = value !== null && typeof value === 'object' && typeof value._repr_html_ === 'function' &&
        value._repr_html_();
    if (typeof html === 'string') data['text/html'] = html;
    const png = value !== null && typeof value === 'object' && typeof value._repr_png_ === 'function' &&
        value._repr_png_();
    if (png) data['image/png'] = typeof png === 'string' ? png : Buffer.from(png).toString('base64');
    if (value !== null && typeof value === 'object') {
      try {
        const json = JSON.stringify(value);
        if (typeof json === 'string') data['application/json'] = json;
      } catch { /* a cycle, or a BigInt */ }
    }
    data['text/plain'] = util.inspect(value, {depth: 4, maxArrayLength: 1000});
    return data;
  }

  async function evaluate(code, name) {
    let value;
    const options = {filename: name, breakOnSigint: true};
    try {
      value = new vm.Script(code, options).runInThisContext({breakOnSigint: true});
    } catch (error) {
      // `await` outside of a function is for modules; what such code declares is its own.
      if (!(error instanceof SyntaxError) || !/\bawait\b/.test(code)) throw error;
      let script;
      try {
        script = new vm.Script(`(async () => (${code}\n))()`, options);
      } catch {
        script = new vm.Script(`(async () => {${code}\n})()`, options);
      }
      value = script.runInThisContext({breakOnSigint: true});
    }
    if (value instanceof Promise) {
      const stopped = new Promise((_, reject) => {
        stop = () => reject(Object.assign(new Error('interrupted'), {code: 'ERR_SCRIPT_EXECUTION_INTERRUPTED'}));
      });
      value = await Promise.race([value, stopped]);
    }
    return value;
  }

  function described(error, name) {
    if (!(error instanceof Error)) return {name: 'thrown', value: util.inspect(error), traceback: util.inspect(error)};
    const lines = String(error.stack || error).split('\n');
    const own = lines.findLastIndex((line) => line.includes(name));
    return {name: error.name, value: error.message, traceback: lines.slice(0, Math.max(own + 1, 1)).join('\n') + '\n'};
  }

  function mark(descriptor, text) {
    try {
      fs.writeSync(descriptor, text);
      return true;
    } catch {
      return false;  // the code has closed it
    }
  }

  scope.display = (...values) => values.forEach((value) => send({type: 'display', data: forms(value)}));
  process.on('uncaughtException', (error) => mark(2, util.inspect(error) + '\n'));
  process.on('message', async ({code, name, token}) => {
    const end = {type: 'end', status: 'ok'};
    try {
      const value = await evaluate(code, name);
      if (value !== undefined) {
        scope._ = value;
        send({type: 'result', data: forms(value)});
      }
    } catch (error) {
      end.status = error && error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? 'interrupted' : 'error';
      send({type: 'error', ...described(error, name)});
    }
    stop = null;
    end.marked = [1, 2].map((descriptor) => mark(descriptor, token));
    send(end);
  });
  send({type: 'ready'});
}

function parent(source) {
  const {spawn} = require('child_process');
  const {randomUUID} = require('crypto');
  process.on('SIGINT', () => {});  // it is for the child, which is in our group
  const worker = spawn(process.execPath, ['-e', source, 'child'], {stdio: ['ignore', 'pipe', 'pipe', 'ipc']});
  const pending = [];
  let run = null;
  let count = 0;

  const answer = (type, fields) =>
    process.stdout.write(JSON.stringify({run: run ? run.id : 0, type, ...fields}) + '\n');

  function show(type, data) {
    const fitting = {};
    for (const [mime, content] of Object.entries(data).sort((a, b) => a[1].length - b[1].length)) {
      if (content.length <= run.dataLeft) {
        run.dataLeft -= content.length;
        fitting[mime] = content;
      } else {
        run.cut = true;
      }
    }
    if (Object.keys(fitting).length > 0) answer(type, {data: fitting});
  }

  function write(stream, bytes) {
    run.cut ||= bytes.length > stream.left;
    const chunk = bytes.subarray(0, stream.left);
    stream.left -= chunk.length;
    if (chunk.length === 0) return;
    const text = chunk.toString();
    answer(stream.name, Buffer.from(text).equals(chunk) ? {text} : {base64: chunk.toString('base64')});
  }

  // Up to the token, whose first bytes may have come alone.
  function take(stream, bytes) {
    if (!run) return;
    stream.held = Buffer.concat([stream.held, bytes]);
    const at = stream.held.indexOf(run.token);
    const length = at >= 0 ? at : Math.max(stream.held.length - run.token.length + 1, 0);
    write(stream, stream.held.subarray(0, length));
    stream.held = stream.held.subarray(at >= 0 ? at + run.token.length : length);
    if (at >= 0) stream.marked = true;
    finish();
  }

  function finish() {
    if (!run || !run.end) return;
    if (streams.some((stream, index) => run.end.marked[index] && !stream.marked)) return;
    for (const stream of streams) {
      if (!stream.marked) write(stream, stream.held);
    }
    for (const {type, ...fields} of run.last) type === 'result' ? show(type, fields.data) : answer(type, fields);
    answer('end', {status: run.end.status, truncated: run.cut});
    run = null;
    next();
  }

  function next() {
    if (run || pending.length === 0) return;
    const request = pending.shift();
    run = {id: request.run, token: `\0${randomUUID()}\0`, dataLeft: DATA_BYTES_MAX, cut: false, last: []};
    for (const stream of streams) Object.assign(stream, {held: Buffer.alloc(0), left: TEXT_BYTES_MAX, marked: false});
    worker.send({code: request.code, name: `run-${++count}.js`, token: run.token});
  }

  const streams = [worker.stdout, worker.stderr].map((pipe, index) => {
    const stream = {name: index === 0 ? 'stdout' : 'stderr', held: Buffer.alloc(0), left: 0, marked: false};
    pipe.on('data', (bytes) => take(stream, bytes));
    return stream;
  });
  worker.on('message', (message) => {
    if (message.type === 'ready') answer('ready', {language: 'javascript', version: process.versions.node});
    else if (!run) return;
    else if (message.type === 'end') { run.end = message; finish(); }
    else if (message.type === 'display') show('display', message.data);
    else run.last.push(message);
  });
  worker.on('exit', (status, signal) => process.exit(signal ? 1 : status));

  let line = '';
  process.stdin.setEncoding('utf8');
  process.stdin.on('data', (text) => {
    const parts = (line + text).split('\n');
    line = parts.pop();
    pending.push(...parts.filter(Boolean).map((part) => JSON.parse(part)));
    next();
  });
  process.stdin.on('end', () => worker.kill('SIGKILL'));
}

const role = process.argv[1];
if (role === 'child') child();
else parent(process._eval);
