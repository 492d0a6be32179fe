/**
 * A lab: L0 and L1 as emulated machines on this one, up in seconds from a snapshot. `labUp` starts one that ends
 * with this process, or one that stays until `lab down`; `labAttach` finds the latter again.
 */
import path from 'node:path';
import { HyperturtleError, isHyperturtleError, messageOf } from '../core/errors.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { bePatient } from '../core/patience.ts';
import { silentProgress } from '../core/progress.ts';
import type { Progress } from '../core/progress.ts';
import type { Artifacts, PrepareArtifacts } from './artifacts.ts';
import { defaultKernel } from './debian.ts';
import { checkKernel, patienceFor } from './kernel-name.ts';
import { levelsOf, startMachine, tailOf, waitBooted } from './boot.ts';
import { startBochs } from './bochs-machine.ts';
import { Channel } from './channel.ts';
import type { BootSpec, Machine, StartOptions } from './boot.ts';
import { checkKvm, checkShape, clockOf, needMemory } from './lab-checks.ts';
import { environmentOf } from './lab-environment.ts';
import { imagesDisk, payloadDisk, whenReady } from './lab-ready.ts';
import { l2ImageSpec } from './l2-image.ts';
import { L2Level } from './levels-l2.ts';
import type { Level } from './levels.ts';
import { l1AddressBits, L2_CHANNELS, l2Numbers, outerMemMib, runFiles } from './machine.ts';
import type { Accelerator, L1Shape, LabClock, RunFiles } from './machine.ts';
import { prepareArtifacts } from './prepare.ts';
import { cpuSeconds, isRunning } from '../core/process.ts';
import type { ProcessId } from '../core/process.ts';
import { endQemu } from './qemu-process.ts';
import {
  checkLabName,
  claimLab,
  cleanDeadLabs,
  isAlive,
  readRecord,
  removeLab,
  removeLabFiles,
  saveRecord,
} from './registry.ts';
import type { LabEnvironment, LabRecord } from './registry.ts';
import { SecondL1 } from './second.ts';
import { dropSnapshotOf, dropSnapshot, ensureSnapshot, restoreSnapshot } from './snapshot.ts';
import { openCache } from './xdg.ts';

export interface LabSpec {
  /** Default: one that no other lab has. */
  name?: string;
  /** Kernel of all levels; default the machine's Debian's. With sanitizers (`6.1-debug`) of L0 and L1, while L2s run the stock one. */
  kernel?: string;
  /** Version of QEMU, outside and in L0 (`10`, `11.1`); default the machine's Debian's. */
  qemu?: string | undefined;
  /** QEMU of the outer machine alone; default `qemu`. */
  outerQemu?: string | undefined;
  accel?: Accelerator;
  /** Default `real` where QEMU emulates; Bochs and KVM have one only. */
  clock?: LabClock;
  /** Bochs' model of the processor; default one that all tests run on. */
  bochsModel?: string;
  /** Default 1. */
  l1Cpus?: number;
  /** NUMA nodes of L1, among which its CPUs and memory are divided; default 1. */
  l1Nodes?: number;
  /** Default 2048, with Bochs 1024. */
  l1MemoryMib?: number;
  /** Memory kept for a second L1 (`Lab.bootSecondL1`); default none. */
  secondL1MemoryMib?: number;
  /** Boot, and make the snapshot again. */
  fresh?: boolean;
  /** Build and mount our modules and programs; default true. */
  payload?: boolean;
  /** Root file systems for nested guests that L1 finds in /images (l2-image-specs.ts); default none. */
  images?: readonly string[];
  /** KVM's own selftests in /images of L1, in place of root file systems (kvm-selftests.ts); default false. */
  kvmSelftests?: boolean;
  /** Default 'owner': ends with this process, however that ends. */
  lifetime?: 'owner' | 'detached';
  progress?: Progress;
  signal?: AbortSignal | undefined;
}

export interface Lab {
  readonly name: string;
  /** Run directory on the host. */
  readonly dir: string;
  readonly l0: Level;
  readonly l1: Level;
  readonly files: RunFiles;
  /** The nested guest whose console is port `n` (0 to 3): it must run the shell of l2-init.ts there. */
  l2(n: number): Pick<Level, 'name' | 'exec'>;
  /** The console port itself, for sessions longer than one command. */
  l2Channel(n: number): Channel;
  /** Boots another tenant beside L1, for labs with memory for it. The caller ends it. `cpus`: default 1. */
  bootSecondL1(signal?: AbortSignal, cpus?: number): Promise<SecondL1>;
  environment(): LabEnvironment;
  /** User and system CPU time of the outer QEMU so far, in seconds: what the emulation cost. */
  emulatorCpuSeconds(): number;
  /** Last lines of a level's console. */
  serialTail(level: 0 | 1, lines?: number): Promise<string>;
  isRunning(): boolean;
  /** Ends the machines and removes the run directory. Safe to call twice. */
  down(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Memory of L1, of the 2 GiB that Bochs has at most. */
const BOCHS_L1_MEM_MIB = 1024;
let unnamed = 0;

/** Starts a lab. Throws HyperturtleErrors that say what to do; leaves nothing behind then. */
export async function labUp(spec: LabSpec = {}, prepare: PrepareArtifacts = prepareArtifacts): Promise<Lab> {
  const progress = spec.progress ?? silentProgress;
  const { signal } = spec;
  const how = { progress, ...(signal ? { signal } : {}) };
  const shape: L1Shape = {
    cpus: spec.l1Cpus ?? 1,
    memMib: spec.l1MemoryMib ?? (spec.accel === 'bochs' ? BOCHS_L1_MEM_MIB : 2048),
    ...(spec.l1Nodes === undefined ? {} : { nodes: spec.l1Nodes }),
    ...(spec.secondL1MemoryMib ? { secondMemMib: spec.secondL1MemoryMib } : {}),
  };
  const accel = spec.accel ?? 'tcg';
  checkShape(shape, accel, spec.images?.length);
  const clock = clockOf(accel, spec.clock);
  const kernel = spec.kernel ?? defaultKernel();
  checkKernel(kernel);
  if (accel === 'kvm') await checkKvm();
  const cache = await openCache(64 << 20);
  bePatient(patienceFor(kernel));
  const lifetime = spec.lifetime ?? 'owner';
  await cleanDeadLabs();
  const record = await claimLab(spec.name ?? `run-${process.pid}-${unnamed++}`, lifetime, kernel);
  const undo = new CleanupStack();
  undo.add('run directory', () => removeLabFiles(record.dir));
  try {
    await needMemory(outerMemMib(shape));
    const artifacts = await prepare({
      kernel,
      qemu: spec.qemu,
      outerQemu: spec.outerQemu,
      ...how,
    });
    const payload = spec.payload === false ? undefined : await artifacts.buildPayload(how);
    const disk = await payloadDisk(record.dir, payload);
    const images = await imagesFor(spec, artifacts, progress);
    const imagesPath = await imagesDisk(record.dir, images);
    const l1 = { ...shape, ...(accel === 'tcg' ? l1AddressBits(artifacts.l0QemuVersion) : {}) };
    const boot: BootSpec = { artifacts, accel, clock, l1, bochsModel: spec.bochsModel };
    if (spec.fresh && accel === 'tcg') await dropSnapshotOf(boot, cache);
    const { machine, snapshotKey } = await start(
      boot,
      record,
      { disk, images: imagesPath },
      cache,
      progress,
      signal,
    );
    undo.add('emulator', () => machine.emulator.end());
    const has = { payload: payload !== undefined, images: images !== undefined };
    await whenReady(machine, has, progress, signal);
    record.state = 'up';
    record.environment = environmentOf(boot, payload?.key ?? null, snapshotKey);
    await saveRecord(record);
    return new RunningLab(record);
  } catch (e) {
    await undo.run();
    throw e;
  }
}

/** The disk that L1 gets besides its own, when somebody wants one. */
async function imagesFor(
  spec: LabSpec,
  artifacts: Artifacts,
  progress: Progress,
): Promise<string | undefined> {
  const options = { progress, ...(spec.signal ? { signal: spec.signal } : {}) };
  const images = spec.images ?? [];
  if (spec.kvmSelftests) {
    if (images.length > 0)
      throw new HyperturtleError('HT_USAGE', 'a lab has one disk for images: without images for selftests');
    return artifacts.kvmSelftestsDisk(options);
  }
  for (const name of images) l2ImageSpec(name);
  return images.length === 0 ? undefined : artifacts.buildImagesDisk(images, options);
}

/** The lab `name` that another process started. Throws HT_NOT_FOUND. */
export async function labAttach(name: string): Promise<Lab> {
  const record = await readRecord(checkLabName(name));
  if (!record || !isAlive(record))
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `lab '${name}' is not up: start it with 'hyperturtle lab up --name ${name}'`,
    );
  if (record.state !== 'up')
    throw new HyperturtleError('HT_BUSY', `lab '${name}' is still starting: try again when it is up`);
  bePatient(patienceFor(record.kernelSeries));
  return new RunningLab(record);
}

/** Ends the lab `name`, no matter who started it and whatever state it is in. Throws HT_NOT_FOUND. */
export async function endLab(name: string): Promise<void> {
  const record = await readRecord(checkLabName(name));
  if (!record)
    throw new HyperturtleError('HT_NOT_FOUND', `no lab '${name}': 'hyperturtle lab status' lists them`);
  if (record.state === 'starting' && isRunning(record.owner) && record.owner.pid !== process.pid)
    throw new HyperturtleError(
      'HT_BUSY',
      `lab '${name}' is being started by process ${record.owner.pid}: interrupt that one`,
    );
  if (record.qemu && record.environment?.accel !== 'bochs')
    await endQemu(record.qemu, runFiles(record.dir).qmpSocket);
  await removeLab(record);
}

class RunningLab implements Lab {
  readonly name: string;
  readonly dir: string;
  readonly l0: Level;
  readonly l1: Level;
  readonly files: RunFiles;
  readonly #record: LabRecord;
  readonly #l2: Channel[] = [];

  constructor(record: LabRecord) {
    this.#record = record;
    this.name = record.name;
    this.dir = record.dir;
    this.files = runFiles(record.dir);
    ({ l0: this.l0, l1: this.l1 } = levelsOf(this.files, record.environment?.accel ?? 'tcg'));
  }

  l2(n: number): Pick<Level, 'name' | 'exec'> {
    return new L2Level(`L2.${n}`, this.l2Channel(n));
  }

  l2Channel(n: number): Channel {
    if (this.environment().accel === 'bochs')
      throw new HyperturtleError(
        'HT_UNSUPPORTED',
        'an Intel lab has no port for consoles of L2s: work in L1',
      );
    if (!l2Numbers().includes(n))
      throw new HyperturtleError('HT_USAGE', `L2 ${n}: a number from 0 to ${L2_CHANNELS - 1} expected`);
    return (this.#l2[n] ??= new Channel(this.files.channel.l2(n), `L2.${n}`));
  }

  bootSecondL1(signal?: AbortSignal, cpus = 1): Promise<SecondL1> {
    const { l1, l1KernelArgs } = this.environment();
    if (l1.secondMemMib === undefined)
      throw new HyperturtleError(
        'HT_USAGE',
        `lab '${this.name}' has no memory for a second L1: start it with secondL1MemoryMib`,
      );
    return SecondL1.boot(this.l0, this.files, {
      memMib: l1.secondMemMib,
      cpus,
      kernelArgs: l1KernelArgs,
      signal,
      ...(l1.addressBits === undefined ? {} : { addressBits: l1.addressBits }),
    });
  }

  environment(): LabEnvironment {
    return this.#record.environment!;
  }

  emulatorCpuSeconds(): number {
    const s = cpuSeconds(this.#record.qemu!);
    if (s === undefined)
      throw new HyperturtleError(
        'HT_CHANNEL',
        `lab '${this.name}': its QEMU has ended (see ${this.files.qemuLog})`,
      );
    return s;
  }

  serialTail(level: 0 | 1, lines = 40): Promise<string> {
    return tailOf(this.files.serial[level], lines);
  }

  isRunning(): boolean {
    return isRunning(this.#record.qemu!);
  }

  async down(): Promise<void> {
    const now = await readRecord(this.name);
    // after a down() by another process the name may be somebody else's
    if (now?.startedAt === this.#record.startedAt) await endLab(this.name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }
}

/** Restores the snapshot, making it first if need be; one that cannot be restored is made again, once. */
async function start(
  boot: BootSpec,
  record: LabRecord,
  disks: { disk: string; images: string },
  cache: string,
  progress: Progress,
  signal: AbortSignal | undefined,
): Promise<{ machine: Machine; snapshotKey: string | null }> {
  const onQemu = (id: ProcessId): Promise<void> => saveRecord(Object.assign(record, { qemu: id }));
  const common = {
    dir: record.dir,
    payloadDisk: disks.disk,
    imagesDisk: disks.images,
    lifetime: record.lifetime,
    onQemu,
    signal,
  };
  // QEMU tells when a vCPU is idle in L0 only under TCG; with hardware, booting takes seconds anyway
  if (boot.accel === 'bochs')
    return { machine: await bootBochs(boot, record, common, progress), snapshotKey: null };
  if (boot.accel === 'kvm') return { machine: await bootKvm(boot, common, progress), snapshotKey: null };
  for (let attempt = 1; ; attempt++) {
    const snapshot = await ensureSnapshot(boot, {
      cache,
      dir: path.join(record.dir, 'boot'),
      progress,
      signal,
    });
    const step = progress.step('restore snapshot');
    try {
      const machine = await restoreSnapshot(boot, snapshot, common);
      try {
        await Promise.all([
          machine.l0.ping({ timeoutMs: 30_000, signal }),
          machine.l1.ping({ timeoutMs: 60_000, signal }),
        ]);
      } catch (e) {
        await machine.emulator.end();
        throw e;
      }
      step.done();
      return { machine, snapshotKey: snapshot.key };
    } catch (e) {
      step.fail();
      if (attempt > 1 || signal?.aborted) throw e;
      progress.note(`  the snapshot cannot be restored (${messageOf(e)}): booting afresh`);
      await dropSnapshot(snapshot);
    }
  }
}

async function bootBochs(
  boot: BootSpec,
  record: LabRecord,
  common: Omit<StartOptions, 'ramFile' | 'incoming'>,
  progress: Progress,
): Promise<Machine> {
  const onRelays = (relays: ProcessId[]): void => void Object.assign(record, { relays });
  const machine = await startBochs(boot, await boot.artifacts.bochs(boot.bochsModel), {
    ...common,
    onRelays,
  });
  try {
    // one core's worth of emulation, three times what TCG takes, and other work beside it
    await waitBooted(machine, { progress, signal: common.signal, patience: 3 });
    return machine;
  } catch (e) {
    await machine.emulator.end();
    throw e;
  }
}

async function bootKvm(
  boot: BootSpec,
  common: Omit<StartOptions, 'ramFile' | 'incoming'>,
  progress: Progress,
): Promise<Machine> {
  const machine = await startMachine(boot, { ...common, incoming: false });
  try {
    await waitBooted(machine, { progress, signal: common.signal });
    return machine;
  } catch (e) {
    await machine.emulator.end();
    if (!isHyperturtleError(e, 'HT_BOOT_FAILED')) throw e;
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `--accel kvm: nested virtualization was tried and doesn't work here (${e.message}): use --accel tcg`,
      { cause: e, detail: e.detail },
    );
  }
}
