/** A veth pair: one end in a network namespace of the test's own, the other in a second one that answers. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import koffi from 'koffi';
import { MapAccess } from '../../src/bpf/map-ops.ts';
import { OwnedFd } from '../../src/bpf/fds.ts';

const CLONE_NEWNET = 0x40000000;
const setns = koffi.load('libc.so.6').func('int setns(int fd, int type)') as (
  fd: number,
  type: number,
) => number;

/** Undefined: network namespaces and devices can be made here. */
export function whyNoNetwork(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root: network namespaces cannot be made';
  const made = spawnSync('unshare', [
    '--net',
    'ip',
    'link',
    'add',
    'probe0',
    'type',
    'veth',
    'peer',
    'name',
    'probe1',
  ]);
  return made.status === 0
    ? undefined
    : `no veth pairs here: ${made.error?.message ?? made.stderr.toString().trim()}`;
}

/** Answers every datagram; says when it does. */
const SERVER = `
const s = require('node:dgram').createSocket('udp4');
s.on('message', (m, from) => s.send(m, from.port, from.address));
s.bind(7007, '192.0.2.2', () => require('node:fs').writeFileSync(process.argv[1], ''));`;

/** One datagram and a short wait for its answer, or many until a file appears. */
const CLIENT = `
const fs = require('node:fs');
const s = require('node:dgram').createSocket('udp4');
const [mode, stop, out] = process.argv.slice(1);
let sent = 0, answered = 0;
s.on('message', () => { answered++; if (mode === '1') process.exit(0); });
s.on('error', () => {});
const send = () => s.send('x', 7007, '192.0.2.2', () => {});
if (mode === '1') { send(); setTimeout(() => process.exit(1), 250); }
else {
  const go = () => {
    for (let i = 0; i < 20; i++) { send(); sent++; }
    if (sent === 20) fs.writeFileSync(out + '.begun', '');
    if (!fs.existsSync(stop)) return setTimeout(go, 1);
    setTimeout(() => {
      fs.writeFileSync(out + '.new', JSON.stringify({ sent, answered }));
      fs.renameSync(out + '.new', out);
      process.exit(0);
    }, 200);
  };
  go();
}`;

export class VethPair {
  readonly ifname = 'here0';
  readonly ifindex: number;
  readonly #here: OwnedFd;
  readonly #own: OwnedFd;
  readonly #names: readonly [string, string];

  readonly #server: ChildProcess;
  #inside = false;

  private constructor(names: readonly [string, string], ifindex: number, server: ChildProcess) {
    this.#names = names;
    this.#server = server;
    this.ifindex = ifindex;
    this.#here = new OwnedFd(openSync(`/run/netns/${names[0]}`, 'r'), 'namespace of the test');
    this.#own = new OwnedFd(openSync('/proc/self/ns/net', 'r'), 'namespace of the process');
  }

  /** This end has 192.0.2.1, the other 192.0.2.2. */
  static create(): VethPair {
    const names = [`ht-here-${process.pid}`, `ht-there-${process.pid}`] as const;
    const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
    for (const n of names) {
      ip('netns', 'add', n);
      // the kernel's own words to its neighbours would be counted with the test's frames
      ip('netns', 'exec', n, 'sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6');
    }
    ip('-n', names[0], 'link', 'add', 'here0', 'type', 'veth', 'peer', 'name', 'there0', 'netns', names[1]);
    for (const [n, dev, address] of [
      [names[0], 'here0', '192.0.2.1/24'],
      [names[1], 'there0', '192.0.2.2/24'],
    ] as const) {
      // known neighbours: ARP would be dropped as well
      ip('-n', n, 'link', 'set', dev, 'address', dev === 'here0' ? '02:00:00:00:00:01' : '02:00:00:00:00:02');
      ip('-n', n, 'address', 'add', address, 'dev', dev);
      ip('-n', n, 'link', 'set', dev, 'up');
    }
    ip('-n', names[0], 'neigh', 'add', '192.0.2.2', 'lladdr', '02:00:00:00:00:02', 'dev', 'here0');
    ip('-n', names[1], 'neigh', 'add', '192.0.2.1', 'lladdr', '02:00:00:00:00:01', 'dev', 'there0');
    const [link] = JSON.parse(ip('-n', names[0], '-j', 'link', 'show', 'here0')) as { ifindex: number }[];
    const ifindex = link?.ifindex ?? 0;
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-echo-'));
    const ready = path.join(dir, 'ready');
    const server = spawn('ip', ['netns', 'exec', names[1], process.execPath, '-e', SERVER, ready], {
      stdio: 'ignore',
    });
    for (const end = Date.now() + 10_000; !existsSync(ready); ) {
      if (Date.now() > end) throw new Error('no echo server');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
    rmSync(dir, { recursive: true });
    return new VethPair(names, ifindex, server);
  }

  /** `work` runs in the namespace of this end; in it nothing is awaited but calls of the kernel made on this thread. */
  within<T>(work: () => T): T {
    if (this.#inside) return work();
    if (setns(this.#here.fd, CLONE_NEWNET) !== 0) throw new Error('setns');
    this.#inside = true;
    const leave = (): void => {
      this.#inside = false;
      if (setns(this.#own.fd, CLONE_NEWNET) !== 0) throw new Error('setns back');
    };
    let result: T | undefined;
    try {
      result = work();
    } finally {
      if (!(result instanceof Promise)) leave();
    }
    return (result instanceof Promise ? result.finally(leave) : result) as T;
  }

  /** Whether a datagram to the other side is answered. */
  ping(): boolean {
    return spawnSync(process.execPath, ['-e', CLIENT, '1'], { timeout: 10_000 }).status === 0;
  }

  /** Datagrams as fast as it goes for the time of `work`, from a process of its own: how many were sent and answered. */
  async during(work: () => void | Promise<void>): Promise<{ sent: number; answered: number }> {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-flood-'));
    const [stop, out] = [path.join(dir, 'stop'), path.join(dir, 'out')];
    const child = spawn(process.execPath, ['-e', CLIENT, 'flood', stop, out], { stdio: 'ignore' });
    const until = (file: string): void => {
      const end = Date.now() + 10_000;
      while (!existsSync(file)) {
        if (Date.now() > end) throw new Error(`no ${path.basename(file)} of the flood`);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
      }
    };
    try {
      until(`${out}.begun`);
      await work();
      writeFileSync(stop, '');
      until(out);
      return JSON.parse(readFileSync(out, 'utf8')) as { sent: number; answered: number };
    } finally {
      child.kill('SIGKILL');
      rmSync(dir, { recursive: true });
    }
  }

  /** Programs and filters on this end, as the kernel's tools see them. */
  attached(): string[] {
    return this.within(() => {
      const text = execFileSync('ip', ['-j', 'link', 'show', this.ifname], { encoding: 'utf8' });
      const [link] = JSON.parse(text) as { xdp?: object }[];
      const filters = ['ingress', 'egress'].flatMap((d) =>
        spawnSync('tc', ['filter', 'show', 'dev', this.ifname, d], { encoding: 'utf8' })
          .stdout.split('\n')
          .filter((l) => / bpf .*handle/.test(l)),
      );
      return [...(link?.xdp ? ['xdp'] : []), ...filters];
    });
  }

  /** The sum over CPUs of a per-CPU array's first word. */
  counter(mapFd: number): number {
    // the descriptor is the object's: it must not be closed here
    const file = { fd: mapFd, what: 'counter' } as OwnedFd;
    const values = new MapAccess(file).get(new Uint8Array(4)) ?? [];
    return values.reduce((n, v) => n + Number(new DataView(v.buffer, v.byteOffset).getBigUint64(0, true)), 0);
  }

  get name(): string {
    return this.#names[0];
  }

  close(): void {
    this.#server.kill('SIGKILL');
    this.#here.close();
    this.#own.close();
    for (const n of this.#names) execFileSync('ip', ['netns', 'del', n]);
  }
}
