/**
 * The daemon's HostKernel without hyperturtle_host.ko: VMs are whatever processes listen on QMP sockets, hooks are
 * remembered, arenas are exported as plain files. Programs and maps are real: what is linked must be a program that
 * the kernel knows. What happens is written line by line to a journal, which another process can read.
 */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import koffi from 'koffi';
import { infoOf } from '../../src/bpf/map.ts';
import { whenReadable } from '../../src/bpf/poll.ts';
import { pidfdAlive, pidfdOpen } from '../../src/bpf/sys.ts';
import { HyperturtleError, errnoCode } from '../../src/core/errors.ts';
import type { HostKernel, VmHooks } from '../../src/host/vm/kernel.ts';
import { listenersOf } from '../../src/host/qemu.ts';
import type { KvmHook } from '../../src/kernel/host.ts';
import { sleep } from '../../src/core/wait.ts';
import { BPF_PROG_INFO } from '../../src/kernel/bpf.ts';

const usleep = koffi.load('libc.so.6').func('int usleep(uint32_t us)') as (us: number) => number;

export interface KernelEvent {
  op: 'attach' | 'detach' | 'link' | 'unlink' | 'export' | 'unexport' | 'call';
  /** Process that runs the VM. */
  pid?: number;
  programId?: number;
  mapId?: number;
  replace?: boolean;
  device?: string;
}

const journalOf = (dir: string): string => path.join(dir, 'kernel.jsonl');

export function readJournal(dir: string): KernelEvent[] {
  try {
    return readFileSync(journalOf(dir), 'utf8')
      .split('\n')
      .filter((l) => l !== '')
      .map((l) => JSON.parse(l) as KernelEvent);
  } catch (e) {
    if (errnoCode(e) === 'ENOENT') return [];
    throw e;
  }
}

export function fakeKernel(dir: string): HostKernel {
  mkdirSync(dir, { recursive: true });
  const attached = new Set<number>();
  let devices = 0;
  const tell = (event: KernelEvent): void => appendFileSync(journalOf(dir), `${JSON.stringify(event)}\n`);
  return {
    findVm(qmpPath) {
      const [pid] = listenersOf(qmpPath);
      if (pid === undefined) throw new HyperturtleError('HT_NOT_FOUND', `no process listens on ${qmpPath}`);
      const file = pidfdOpen(pid);
      return {
        pid,
        alive: () => pidfdAlive(file),
        whenGone: (signal) => whenReadable(file, signal),
        close: () => file.close(),
        attach(call) {
          if (attached.has(pid))
            throw new HyperturtleError('HT_BUSY', `VM of process ${pid} is attached already`);
          attached.add(pid);
          tell({ op: 'attach', pid });
          return fakeHooks(
            pid,
            tell,
            () => attached.delete(pid),
            () => readCounts(dir),
            () => takeEnd(dir),
            async () => {
              await call(usleep, slowMs(dir, pid) * 1000);
            },
          );
        },
      };
    },
    exportArena(map) {
      const device = existsSync(path.join(dir, 'devices'))
        ? deviceNode()
        : path.join(dir, `hyperturtle-arena${process.pid}-${devices++}`);
      if (!existsSync(device)) writeFileSync(device, '');
      tell({ op: 'export', device, mapId: map.info().id });
      return {
        devicePath: device,
        close: () => {
          rmSync(device, { force: true });
          tell({ op: 'unexport', device });
        },
      };
    },
  };
}

/** Arenas are to be devices in /dev from now on, which QEMU must be allowed to open. */
export function makeDevices(dir: string): void {
  writeFileSync(path.join(dir, 'devices'), '');
}

/** A device of the kernel's own, with the first name that is free, as the module names them; its memory is zeros. */
function deviceNode(): string {
  for (let n = 0; ; n++) {
    const device = `/dev/hyperturtle-arena${n}`;
    if (existsSync(device)) continue;
    execFileSync('mknod', ['-m', '600', device, 'c', '1', '5']);
    return device;
  }
}

/** What hooks counted, by hook, where a test says so: otherwise always the same. */
export function writeCounts(dir: string, counts: Record<string, object>): void {
  const file = path.join(dir, 'counts.json');
  writeFileSync(`${file}.new`, JSON.stringify(counts));
  renameSync(`${file}.new`, file);
}

/** Calls that change hooks of the VM of this process take so long, as when a vCPU with a program is not scheduled. */
export function slowDown(dir: string, pid: number, ms: number): void {
  writeFileSync(path.join(dir, `slow-${pid}`), String(ms));
}

function slowMs(dir: string, pid: number): number {
  const file = path.join(dir, `slow-${pid}`);
  return existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0;
}

/** The program of this hook has run too long. */
export function endLinks(dir: string, hook: KvmHook): void {
  writeFileSync(path.join(dir, 'ended'), hook);
}

function takeEnd(dir: string): KvmHook | undefined {
  const file = path.join(dir, 'ended');
  if (!existsSync(file)) return undefined;
  const hook = readFileSync(file, 'utf8');
  rmSync(file);
  return hook as KvmHook;
}

function readCounts(dir: string): Record<string, object> {
  const file = path.join(dir, 'counts.json');
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Record<string, object>) : {};
}

/** What the fake kernel says of the rest of groups. */
export const FILLS = {
  ...{ done: 42, budget: 1, pending: 2, failed: 3, absent: 4 },
  ...{ ns: 90_000, maxNs: 12_000, limitNs: 30_000 },
};

function fakeHooks(
  pid: number,
  tell: (e: KernelEvent) => void,
  onClose: () => void,
  counts: () => Record<string, object>,
  ended: () => KvmHook | undefined,
  wait: () => Promise<void>,
): VmHooks {
  const linked = new Map<string, number>();
  return {
    async link(hook, program, arena, { replace }) {
      await wait();
      // throws when it is no descriptor of a program
      const { id } = BPF_PROG_INFO.decode(infoOf(program.name, program.fd, BPF_PROG_INFO.size));
      if (linked.has(hook) && !replace)
        throw new HyperturtleError('HT_BUSY', `hook ${hook} has a program already`);
      linked.set(hook, id);
      tell({ op: 'link', pid, programId: id, ...(arena ? { mapId: arena.info().id } : {}), replace });
    },
    async unlink(hook) {
      await wait();
      const programId = linked.get(hook);
      if (programId === undefined) throw new HyperturtleError('HT_NOT_FOUND', `hook ${hook} has no program`);
      tell({ op: 'unlink', pid, programId });
      linked.delete(hook);
    },
    stats: (hook) => ({
      hook,
      pid,
      linked: linked.has(hook),
      programId: linked.get(hook) ?? 0,
      runs: 10,
      handled: 7,
      entries: 7,
      learned: 1,
      overruns: 0,
      maxNs: 900,
      limitNs: 200_000,
      passed: 3,
      reasons: { no_pool: 3 },
      ...(hook === 'npf' ? { fills: FILLS } : {}),
      ...counts()[hook],
    }),
    // adds its words, which a program could do as well
    call({ programId, number, words }) {
      if (programId !== linked.get('call'))
        throw new HyperturtleError('HT_NOT_FOUND', 'the program is not linked to hook call');
      tell({ op: 'call', pid, programId });
      const sum = words.reduce((a, b) => BigInt.asUintN(64, a + b), 0n);
      return { answered: true, results: [sum, BigInt(number), 0n, 0n] };
    },
    async endedLinks(signal) {
      for (;;) {
        await sleep(50, signal);
        const hook = ended();
        const programId = hook && linked.get(hook);
        if (hook === undefined || programId === undefined) continue;
        linked.delete(hook);
        return [{ hook, programId, ns: 900_000, limitNs: 200_000 }];
      }
    },
    async close() {
      await wait();
      tell({ op: 'detach', pid });
      onClose();
    },
  };
}
