/** Starts the outer machine, booting it or restoring it, and waits until both levels answer. */
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { exec } from '../core/exec.ts';
import { HyperturtleError, isHyperturtleError, messageOf } from '../core/errors.ts';
import { patient } from '../core/patience.ts';
import type { Progress } from '../core/progress.ts';
import { sleep } from '../core/wait.ts';
import type { Artifacts } from './artifacts.ts';
import { L1_SCRIPT_FW_CFG } from './artifacts.ts';
import { Channel } from './channel.ts';
import type { Emulator } from './emulator.ts';
import { AgentLevel } from './guest-agent.ts';
import type { Accelerator, L1Shape, LabClock, MachineSpec, RunFiles } from './machine.ts';
import {
  L1_RUN,
  channelBases,
  l1Machine,
  l1Script,
  outerMachine,
  qemuArguments,
  runFiles,
} from './machine.ts';
import type { ProcessId } from '../core/process.ts';
import type { QemuProcess } from './qemu-process.ts';
import { startQemu } from './qemu-process.ts';

export interface BootSpec {
  artifacts: Artifacts;
  accel: Accelerator;
  clock: LabClock;
  l1: L1Shape;
  /** Bochs' model of the processor. */
  bochsModel?: string | undefined;
}

export interface StartOptions {
  /** Run directory: sockets, pipes, logs. */
  dir: string;
  payloadDisk: string;
  imagesDisk: string;
  ramFile?: NonNullable<MachineSpec['ramFile']>;
  incoming: boolean;
  lifetime: 'owner' | 'detached';
  /** Called as soon as QEMU runs: from then on somebody else must be able to find it. */
  onQemu?: (id: ProcessId) => Promise<void>;
  signal?: AbortSignal | undefined;
}

export interface Machine {
  emulator: Emulator;
  files: RunFiles;
  l0: AgentLevel;
  l1: AgentLevel;
}

/** One that takes commands of QEMU's. */
export interface QemuMachine extends Machine {
  qemu: QemuProcess;
}

/** How long L0 and then L1 may take to answer. Minutes under emulation on a busy machine; seconds otherwise. */
const L0_BOOT_MS = 180_000;
const L1_BOOT_MS = 420_000;

export function outerSpec(spec: BootSpec, o: StartOptions): MachineSpec {
  return outerMachine({
    accel: spec.accel,
    clock: spec.clock,
    l1: spec.l1,
    kernel: spec.artifacts.vmlinux,
    initrd: spec.artifacts.bootInitramfs,
    kernelArgs: spec.artifacts.kernelArgs(0),
    baseImage: spec.artifacts.baseImage,
    payloadDisk: o.payloadDisk,
    imagesDisk: o.imagesDisk,
    files: runFiles(o.dir),
    ...(o.ramFile ? { ramFile: o.ramFile } : {}),
    incoming: o.incoming,
    l1ScriptName: L1_SCRIPT_FW_CFG,
  });
}

/** Starts QEMU with all that it needs in `o.dir`; does not wait for the guests. */
export async function startMachine(spec: BootSpec, o: StartOptions): Promise<QemuMachine> {
  await mkdir(o.dir, { recursive: true, mode: 0o700 });
  const files = runFiles(o.dir);
  const pipes = channelBases(files).flatMap((b) => [`${b}.in`, `${b}.out`]);
  // a machine that did not come up may have left them
  await Promise.all(pipes.map((p) => rm(p, { force: true })));
  await exec('mkfifo', ['-m', '600', ...pipes], { signal: o.signal });
  await writeFile(files.l1Script, l1Script(l1Machine(spec.l1, spec.artifacts.kernelArgs(1))));
  for (const log of [...Object.values(files.serial), files.secondSerial])
    await (await open(log, 'a')).close();
  const qemu = await startQemu({
    program: spec.artifacts.qemu,
    args: qemuArguments(outerSpec(spec, o)),
    logPath: files.qemuLog,
    qmpSocket: files.qmpSocket,
    lifetime: o.lifetime,
    signal: o.signal,
  });
  try {
    await o.onQemu?.(qemu.id);
  } catch (e) {
    await qemu.end();
    throw e;
  }
  return { qemu, emulator: qemu, files, ...levelsOf(files, spec.accel) };
}

export function levelsOf(files: RunFiles, accel: Accelerator): { l0: AgentLevel; l1: AgentLevel } {
  const echoes = accel === 'bochs';
  return {
    l0: new AgentLevel('L0', new Channel(files.channel.l0, 'L0', { echoes })),
    l1: new AgentLevel('L1', new Channel(files.channel.l1, 'L1', { echoes })),
  };
}

/** Waits for L0's agent and then L1's. Throws HT_BOOT_FAILED with the tail of the console that tells why. */
export async function waitBooted(
  m: Machine,
  options: { progress: Progress; signal?: AbortSignal | undefined; patience?: number },
): Promise<void> {
  for (const n of [0, 1] as const) {
    const step = options.progress.step(`boot L${n}`);
    try {
      const timeoutMs = patient((n === 0 ? L0_BOOT_MS : L1_BOOT_MS) * (options.patience ?? 1));
      await waitAnswer(m, n, timeoutMs, (line) => step.update(line), options.signal);
      step.done();
    } catch (e) {
      step.fail();
      if (!isHyperturtleError(e, 'HT_BOOT_FAILED') && !isHyperturtleError(e, 'HT_TIMEOUT')) throw e;
      throw new HyperturtleError('HT_BOOT_FAILED', `L${n} did not boot: ${e.message}`, {
        cause: e,
        detail: { level: n, tail: await tailOf(m.files.serial[n], 25), console: m.files.serial[n] },
      });
    }
  }
}

async function waitAnswer(
  m: Machine,
  n: 0 | 1,
  timeoutMs: number,
  onLine: (line: string) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const level = n === 0 ? m.l0 : m.l1;
  const end = performance.now() + timeoutMs;
  for (;;) {
    m.emulator.check();
    try {
      return await level.ping({ timeoutMs: 2000, signal });
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_TIMEOUT') && !isHyperturtleError(e, 'HT_CHANNEL')) throw e;
      if (performance.now() > end)
        throw new HyperturtleError('HT_TIMEOUT', `no answer within ${timeoutMs / 1000} s`);
    }
    if (n === 1)
      await checkL1Qemu(m.l0, signal).catch((e: unknown) => {
        // L0 is busy with it: the deadline decides
        if (!isHyperturtleError(e, 'HT_TIMEOUT')) throw e;
      });
    onLine((await tailOf(m.files.serial[n], 1)).slice(0, 60) || 'waiting for its agent');
    await sleep(50, signal);
  }
}

/** Throws when L1's QEMU has ended: no use to wait for the deadline then. */
async function checkL1Qemu(l0: AgentLevel, signal: AbortSignal | undefined): Promise<void> {
  const script = `[ ! -e ${L1_RUN.ended} ] || cat ${L1_RUN.ended} ${L1_RUN.log}`;
  const r = await l0.exec(['sh', '-c', script], { timeoutMs: 20_000, signal });
  const said = r.stdout.toString('utf8').trim().split('\n');
  if (said[0] !== '')
    throw new HyperturtleError('HT_BOOT_FAILED', `its QEMU in L0 ended: ${said.slice(0, 4).join('; ')}`);
}

/** The last lines of a console log, without control sequences. */
export async function tailOf(file: string, lines: number): Promise<string> {
  try {
    return consoleTail((await readFile(file)).toString('latin1'), lines);
  } catch (e) {
    return `(${messageOf(e)})`;
  }
}

/** What came before a kernel's panic says more than its call trace: of a panic, the lines around its first. */
export function consoleTail(text: string, lines: number): string {
  const all = text
    .replace(/\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x09\x0b-\x1f]/g, '')
    .trimEnd()
    .split('\n');
  const panic = all.findIndex((l) => l.includes('Kernel panic'));
  if (panic < 0 || lines < 2) return all.slice(-lines).join('\n');
  return all.slice(Math.max(0, panic + 3 - lines), panic + 3).join('\n');
}
