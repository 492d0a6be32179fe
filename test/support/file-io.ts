/**
 * In L1: the same calls on files of two directories, what each gave; then reads and writes beside holes; what counts as a fault
 * that found a frame; and how often the words of a file move that grows by write() where the index has no room left.
 */
export const FILE_IO = `
import fs from 'node:fs';
import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { OwnedFd } from '/payload/app/dist/src/bpf/fds.js';
import { SharedMemory } from '/payload/app/dist/src/bpf/sys.js';
import { GuestDevice } from '/payload/app/dist/src/guest/device.js';
const koffi = createRequire('/payload/app/dist/src/')('koffi');
const libc = koffi.load('libc.so.6');
const sendfile = libc.func('int64_t sendfile(int to, int from, void *off, size_t n)');
const splice = libc.func('int64_t splice(int from, void *offFrom, int to, void *offTo, size_t n, unsigned int flags)');
const copyRange = libc.func('int64_t copy_file_range(int from, void *a, int to, void *b, size_t n, unsigned int flags)');
const pipe = libc.func('int pipe(_Out_ int *fds)');
const lseek = libc.func('int64_t lseek(int fd, int64_t off, int whence)');
const readTo = libc.func('int64_t pread(int fd, intptr_t at, size_t n, int64_t off)');
const writeFrom = libc.func('int64_t pwrite(int fd, intptr_t at, size_t n, int64_t off)');
const fallocate = libc.func('int fallocate(int fd, int mode, int64_t off, int64_t len)');
const K = 1024, M = K * K, NEAR = 8, TMPFILE = 0o20200002;
const buf = Buffer.alloc(300 * K + 5, (i) => i), sha = (b) => createHash('sha256').update(b).digest('hex').slice(0, 12);
for (let i = 0; i < buf.length; i++) buf[i] = (i * 7 + (i >> 9)) & 255;

function calls(dir) {
  const out = [], at = (name) => dir + '/io.' + name, names = [];
  const open = (name, flags) => { if (!names.includes(name)) names.push(name); return fs.openSync(at(name), flags); };
  const state = (fd) => { const s = fs.fstatSync(fd); return [s.size, s.blocks / 8]; };
  const content = (name) => sha(fs.readFileSync(at(name)));
  const f = open('f', 'w+');
  out.push('write', fs.writeSync(f, 'abc'), fs.writeSync(f, 'xyz', 10000), state(f), content('f'));
  fs.ftruncateSync(f, 2 * M);
  out.push('holes', content('f'), state(f));
  out.push('pwrite', fs.writeSync(f, buf, 0, buf.length, 4000), content('f'), state(f));
  const back = Buffer.alloc(buf.length);
  out.push('pread', fs.readSync(f, back, 0, back.length, 4000), back.equals(buf));
  out.push('end', fs.readSync(f, back, 0, 100, 2 * M), fs.readSync(f, back, 0, 100, 2 * M - 40), fs.readSync(f, back, 0, 9, 9 * M));
  out.push('bad address', Number(readTo(f, NEAR, 100, 0)), koffi.errno(), Number(writeFrom(f, NEAR, 100, 0)), koffi.errno());
  out.push('bad address behind the end', Number(writeFrom(f, NEAR, 9000, 3 * M)));
  fs.ftruncateSync(f, 2 * M); // tmpfs of 7.3 is longer now, though nothing was written
  out.push(state(f));
  fs.appendFileSync(at('f'), 'tail');
  out.push('append', state(f), content('f'));
  const each = (name, move) => {
    const g = open(name, 'w+');
    lseek(f, 0, 0);
    let all = 0, n;
    while ((n = Number(move(g))) > 0) all += n;
    out.push(name, n, all, content(name));
    fs.closeSync(g);
  };
  each('sendfile', (g) => sendfile(g, f, null, 1 << 20));
  each('copy_file_range', (g) => copyRange(f, null, g, null, 1 << 20, 0));
  const ends = [0, 0];
  pipe(ends);
  each('splice', (g) => {
    const n = Number(splice(f, null, ends[1], null, 16 * K, 0));
    for (let left = n; left > 0; ) {
      const k = Number(splice(ends[0], null, g, null, left, 0));
      if (k <= 0) throw new Error('splice from the pipe: ' + k + ', errno ' + koffi.errno());
      left -= k;
    }
    return n;
  });
  ends.forEach((fd) => fs.closeSync(fd));
  names.push('cp', 'dd');
  execFileSync('cp', [at('f'), at('cp')]);
  execFileSync('dd', ['if=' + at('f'), 'of=' + at('dd'), 'bs=65536'], { stdio: 'ignore' });
  out.push('cp and dd', content('cp'), content('dd'));
  fs.closeSync(f);
  const t = fs.openSync(dir, TMPFILE, 0o600), seek = (off, whence) => [Number(lseek(t, off, whence)), koffi.errno()];
  fs.ftruncateSync(t, M);
  out.push('without a name', fs.fstatSync(t).nlink, state(t), fs.readdirSync(dir).filter((n) => n.startsWith('io.')).length - names.length);
  fs.writeSync(t, 'abc', 8192);
  for (const [off, whence] of [[0, 3], [0, 4], [8192, 4], [8200, 3], [9000, 4], [12288, 3], [M, 3], [M, 4], [-1, 3]])
    out.push('seek', off, whence, seek(off, whence)[0]);
  out.push('allocate', fallocate(t, 0, 600 * K, M), state(t), fallocate(t, 1, 0, 64 * K), state(t), fallocate(t, 0, 0, 0), koffi.errno());
  out.push('what is there stays', fs.readSync(t, back, 0, 3, 8192), back.subarray(0, 3).toString());
  out.push('holes again', fallocate(t, 3, 0, 2 * M), state(t), seek(0, 3)[0], seek(0, 4)[0]);
  fs.closeSync(t);
  for (const name of names) fs.unlinkSync(at(name));
  return out;
}

const [turtle, tmp] = process.argv.slice(2), out = { turtlefs: calls(turtle), tmpfs: calls(tmp), reads: 0, held: 0, mismatches: 0 };
const PAGES = 64, fd = fs.openSync(turtle + '/io.race', 'w+'), own = new OwnedFd(fd, 'io.race');
fs.ftruncateSync(fd, PAGES * 4096);
const m = new SharedMemory(own, PAGES * 4096), some = Buffer.alloc(16 * 4096), word = Buffer.alloc(8);
const holes = (n) => new Promise((done, failed) => {
  fallocate.async(fd, 3, Math.floor(Math.random() * PAGES) * 4096, 8192, (e, r) =>
    e || r ? failed(e ?? new Error('fallocate')) : n > 1 ? holes(n - 1).then(done, failed) : done());
});
for (let k = 0; k < 60; k++) {
  const punched = Promise.all([holes(2), holes(2)]);
  for (let i = 0; i < 12; i++) {
    const page = Math.floor(Math.random() * PAGES);
    if (i % 3 === 0) m.store(page * 4096, BigInt(page + 7));
    if (i % 3 === 1) { word.writeBigUInt64LE(BigInt(page + 7)); fs.writeSync(fd, word, 0, 8, page * 4096); }
    const from = Math.floor(Math.random() * (PAGES - 16));
    fs.readSync(fd, some, 0, some.length, from * 4096);
    for (let p = 0; p < 16; p++) {
      const seen = some.readBigUInt64LE(p * 4096);
      out.reads++;
      if (seen === BigInt(from + p + 7)) out.held++;
      else if (seen !== 0n) out.mismatches++;
    }
    const seen = Number(lseek(fd, page * 4096, i % 2 ? 3 : 4));
    if (seen >= 0 && (seen < page * 4096 || seen > PAGES * 4096)) out.mismatches++;
    if (i % 4 === 0 && fallocate(fd, 0, from * 4096, 4096)) out.mismatches++;
    if (!some.subarray(8, 4096).equals(Buffer.alloc(4088))) out.mismatches++;
  }
  await punched;
}
m.close(); own.close(); fs.unlinkSync(turtle + '/io.race');

const device = GuestDevice.open(), found = () => device.info().faults_found, filled = Buffer.alloc(8 * 4096, 1);
const c = fs.openSync(turtle + '/io.count', 'w+'), counted = new OwnedFd(c, 'io.count');
fs.writeSync(c, filled, 0, filled.length, 0);
const before = found();
fs.writeSync(c, filled, 0, filled.length, 0);
const written = found(), view = new SharedMemory(counted, filled.length);
for (let page = 0; page < 8; page++) view.load(page * 4096);
out.found = { byWrites: written - before, byFaults: found() - written };
view.close(); counted.close(); fs.unlinkSync(turtle + '/io.count');

const z = fs.openSync(turtle, TMPFILE, 0o600);
fs.writeSync(z, filled, 0, filled.length, 0);
out.zeroRange = [fallocate(z, 0x10, 4000, 8292), fs.fstatSync(z).blocks / 8, fs.fstatSync(z).size];
out.zeroRange.push(fallocate(z, 0x11, 0, M), fs.fstatSync(z).size, fallocate(z, 0x10, 0, M), fs.fstatSync(z).size);
out.badAddress = [Number(writeFrom(z, NEAR, 9000, 3 * M)), fs.fstatSync(z).size];
fs.closeSync(z);

const STEPS = 64, areas = new Set(), all = fs.openSync(turtle + '/io.all', 'w'), grows = fs.openSync(turtle + '/io.grows', 'w');
fs.ftruncateSync(all, fs.statfsSync(turtle).bfree * 4096);
for (let i = 0; i < STEPS; i++) {
  fs.writeSync(grows, 'x', i * 2 * M);
  for (const [, pages] of fs.readFileSync('/proc/vmallocinfo', 'utf8').matchAll(/\\[hyperturtle_guest\\] pages=(\\d+) vmalloc/g))
    areas.add(pages);
}
out.growth = { steps: STEPS, moves: areas.size };
for (const [fd, name] of [[all, '/io.all'], [grows, '/io.grows']]) { fs.closeSync(fd); fs.unlinkSync(turtle + name); }
console.log(JSON.stringify(out));
`;
