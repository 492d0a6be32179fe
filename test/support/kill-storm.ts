/**
 * Processes that plug and unplug arena, port and NICs in one stock QEMU, one after the other: each is killed at a random
 * point, and the next begins at once. Afterwards one takes all away.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { sleep, waitFor } from '../../src/core/wait.ts';
import type { QemuProgram } from '../../src/lab/artifacts.ts';
import { QmpClient } from '../../src/qmp/client.ts';
import { compiledSupport } from './compiled-support.ts';
import { HmpGuest } from './hmp-guest.ts';
import { RealQemu } from './real-qemu.ts';

const ARENA_SLOT = 8;

export interface StormSpec {
  kills: number;
  /** `-`: no NICs. */
  bridge: string;
  /** Longest life of a process. */
  lifeMs: number;
  seed: number;
  onProgress?: (killed: number, qemu: RealQemu) => void;
}

export interface StormReport {
  version: string;
  killed: number;
  turns: number;
  mapped: number;
  ejected: number;
  left: { objects: string[]; devices: string[]; chardevs: string[]; network: string; fds: number };
  /** Open files of QEMU before and after. */
  fdsBefore: number;
  errors: string;
}

/** Throws when QEMU ends. */
export async function killStorm(qemu: QemuProgram, spec: StormSpec): Promise<StormReport> {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-kill-'));
  const at = (name: string): string => path.join(dir, name);
  writeFileSync(at('arena'), '');
  truncateSync(at('arena'), 1 << 20);
  const main = compiledSupport('plug-main.ts');
  const vm = await RealQemu.start(
    qemu,
    [at('qmp'), at('test.qmp')],
    [
      ...['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'],
      ...['-device', `pcie-root-port,id=arena0,chassis=9,addr=${ARENA_SLOT}`],
      ...[0, 1].flatMap((n) => ['-device', `pcie-root-port,id=p${n},chassis=${n + 1},slot=${n + 16}`]),
      ...['-device', 'virtio-serial-pci,id=serial'],
    ],
  );
  const children = new Set<ChildProcess>();
  try {
    const qmp = await QmpClient.connect(at('test.qmp'));
    const guest = new HmpGuest(qmp, ARENA_SLOT);
    await guest.start();
    const fdsBefore = fdsOf(vm.pid).length;
    const random = generator(spec.seed);
    let turns = 0;
    const make = async (): Promise<ChildProcess> => {
      const child = spawn(process.execPath, [main, at('qmp'), dir, spec.bridge, String(vm.pid)], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      children.add(child);
      const ready = once(child.stdout, 'data');
      await Promise.race([ready, once(child, 'exit').then(() => Promise.reject(new Error('it ended')))]);
      child.stdout.on('data', (c: Buffer) => (turns += c.toString().split('turn').length - 1));
      return child;
    };
    let next = await make();
    for (let n = 0; n < spec.kills; n++) {
      const child = next;
      child.stdin?.write('go\n');
      const [made] = await Promise.all([make(), sleep(random() * spec.lifeMs)]);
      next = made;
      if (child.exitCode !== null) throw new Error(`life ${n} ended by itself: ${vm.errors}`);
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
      children.delete(child);
      if (!vm.running) throw new Error(`QEMU ended after ${n + 1} kills: ${vm.errors}`);
      spec.onProgress?.(n + 1, vm);
    }
    const ended = once(next, 'exit');
    next.stdin?.write('end\n');
    const [status] = (await ended) as [number | null];
    if (status !== 0) throw new Error(`the last one ended with ${status}: ${vm.errors}`);
    // QEMU closes some files after it has answered
    await waitFor('files closed', () => fdsOf(vm.pid).length <= fdsBefore || undefined, {
      timeoutMs: 5000,
    }).catch(() => {});
    const names = async (p: string): Promise<string[]> =>
      ((await qmp.execute('qom-list', { path: p })) as { name: string }[])
        .map((x) => x.name)
        .filter((name) => /^hyperturtle-/.test(name));
    const left = {
      objects: await names('/objects'),
      devices: await names('/machine/peripheral'),
      chardevs: ((await qmp.execute('query-chardev')) as { label: string }[])
        .map((c) => c.label)
        .filter((l) => /^hyperturtle-/.test(l)),
      network: (await qmp.hmp('info network')).trim(),
      fds: fdsOf(vm.pid).length,
    };
    await guest.stop();
    qmp.close();
    const { mapped, ejected } = guest;
    const { errors } = vm;
    return { version: qmp.version, killed: spec.kills, turns, mapped, ejected, left, fdsBefore, errors };
  } finally {
    for (const child of children) child.kill('SIGKILL');
    await vm.end();
    rmSync(dir, { recursive: true });
  }
}

const fdsOf = (pid: number): string[] => readdirSync(`/proc/${pid}/fd`);

/** mulberry32: the same points for the same seed (as far as the machine lets it). */
function generator(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
