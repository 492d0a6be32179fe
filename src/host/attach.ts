/**
 * Gives one running VM its arena and its program, and takes all back. The order: map, device file, VM, program,
 * plug, link; whatever fails, and at the end, what was done is undone in reverse. Everything in the kernel belongs
 * to descriptors of this process, so its death leaves at most the (then inert) device in the VM.
 */
import path from 'node:path';
import { parseElf } from '../bpf/elf.ts';
import type { OwnedFd } from '../bpf/fds.ts';
import { emptyVm, takeVm } from '../bpf/kvm.ts';
import { SharedArray } from '../bpf/map.ts';
import { localMaps } from '../bpf/local-maps.ts';
import { BpfObject } from '../bpf/object.ts';
import type { BpfProgram } from '../bpf/object.ts';
import { whenReadable } from '../bpf/poll.ts';
import { pidfdAlive, pidfdOpen } from '../bpf/sys.ts';
import type { SharedMemory } from '../bpf/sys.ts';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { readInput } from '../core/files.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { HT_ARENA_OFFER, arenaSizeProblem } from '../kernel/arena.ts';
import { BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE } from '../kernel/bpf.ts';
import type { KvmHook } from '../kernel/host.ts';
import type { MapAccess } from '../net/maps.ts';
import type { LinkOptions } from '../wire/link-options.ts';
import { plugArena, unplugArena } from './arena-plug.ts';
import { HostDevice } from './device.ts';
import type { AttachedVm, EndedLink, RunResult, RunSpec, RunnableHook } from './device.ts';
import { qemuBehind } from './qemu.ts';
import type { HookStats } from './stats.ts';

export interface AttachSpec {
  /** QMP socket of the VM's QEMU. Needed to plug, and to find the process when `pid` is not given. */
  qmpPath?: string | undefined;
  /** Process that runs the VM. */
  pid?: number | undefined;
  /** Neither of the two: a VM of this process that has no CPU, for `run`. */
  ownVm?: boolean | undefined;
  arenaBytes: number;
  /** Where to plug the arena; undefined: do not plug it. */
  bus?: string | undefined;
  /** ELF object to load and link; undefined: none. */
  programPath?: string | undefined;
  hook: KvmHook;
  /** What the link asks of the hook. */
  options?: LinkOptions | undefined;
  /** Called before the first link, to fill the program's maps. */
  prepare?: (maps: MapAccess) => Promise<void>;
  qmpTimeoutMs: number;
  unplugTimeoutMs: number;
  signal?: AbortSignal | undefined;
}

export interface AttachStatus {
  pid: number;
  arena: { device: string; bytes: number; mapId: number; pluggedInto: string | null };
  program: { name: string; id: number; jitedBytes: number; verifiedInstructions: number } | null;
  hook: KvmHook;
  linked: boolean;
}

export class Attachment implements AsyncDisposable {
  readonly #spec: AttachSpec;
  readonly #undo = new CleanupStack();
  #pid = 0;
  #process!: OwnedFd;
  #vm!: AttachedVm;
  #map!: SharedArray;
  #devicePath = '';
  #program: BpfProgram | undefined;
  #usesArena = false;
  #object: BpfObject | undefined;
  #linked = false;

  private constructor(spec: AttachSpec) {
    this.#spec = spec;
  }

  static async open(spec: AttachSpec): Promise<Attachment> {
    const problem = arenaSizeProblem(spec.arenaBytes);
    if (problem) throw new HyperturtleError('HT_USAGE', `size of the arena: ${problem}`);
    const elf = spec.programPath === undefined ? undefined : readProgram(spec.programPath);
    const a = new Attachment(spec);
    try {
      await a.#build(elf);
      return a;
    } catch (e) {
      await a.#undo.run();
      throw e;
    }
  }

  status(): AttachStatus {
    const info = this.#program?.info();
    return {
      pid: this.#pid,
      arena: {
        device: this.#devicePath,
        bytes: this.#spec.arenaBytes,
        mapId: this.#map.info().id,
        pluggedInto: this.#spec.bus ?? null,
      },
      program: info
        ? {
            name: info.name,
            id: info.id,
            jitedBytes: info.jitedBytes,
            verifiedInstructions: info.verifiedInstructions,
          }
        : null,
      hook: this.#spec.hook,
      linked: this.#linked,
    };
  }

  /**
   * A linked program is replaced by itself at once: every event still runs it. Unlinking what is not linked changes
   * nothing. Throws HT_USAGE without a program.
   */
  async link(): Promise<void> {
    if (!this.#program) throw new HyperturtleError('HT_USAGE', 'there is no program to link: give --program');
    await this.#vm.link(this.#spec.hook, this.#program, this.#usesArena ? this.#map : undefined, {
      replace: this.#linked,
      options: this.#spec.options,
    });
    this.#linked = true;
  }

  async unlink(): Promise<void> {
    if (!this.#linked) return;
    try {
      await this.#vm.unlink(this.#spec.hook);
    } catch (e) {
      // the module has just ended it
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    }
    this.#linked = false;
  }

  /** Maps of the program's object. Throws HT_USAGE without a program. */
  maps(): MapAccess {
    if (!this.#object) throw new HyperturtleError('HT_USAGE', 'there is no program: give --program');
    return localMaps(this.#object);
  }

  stats(): HookStats {
    return this.#vm.stats(this.#spec.hook);
  }

  run<H extends RunnableHook>(spec: RunSpec<H>): RunResult<H> {
    return this.#vm.run(spec);
  }

  /** The arena's memory; to be closed by the caller. Only for an arena that no VM has. */
  openArena(): SharedMemory {
    if (this.#spec.bus !== undefined)
      throw new HyperturtleError('HT_USAGE', 'the arena belongs to the VM that it is plugged into');
    return this.#map.map();
  }

  /** Waits for the module to end the link, as runs of its program took too long. Throws the signal's reason. */
  async whenLinkEnds(signal: AbortSignal): Promise<EndedLink[]> {
    const ended = await this.#vm.endedLinks(signal);
    // it may have been linked again before this was told
    this.#linked = this.#vm.stats(this.#spec.hook).linked;
    return ended;
  }

  /** Resolves when the VM's process has ended. Throws the signal's reason when that comes first. */
  whenVmEnds(signal: AbortSignal): Promise<void> {
    return whenReadable(this.#process, signal);
  }

  /** Undoes everything, in reverse. All steps run; failures are thrown together. */
  async close(): Promise<void> {
    await this.#undo.run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #build(elf: Uint8Array | undefined): Promise<void> {
    const spec = this.#spec;
    const own = spec.ownVm === true;
    const pid = (this.#pid = own ? process.pid : (spec.pid ?? qemuBehind(required(spec.qmpPath))));

    const device = HostDevice.open();
    try {
      const map = (this.#map = SharedArray.create('arena', spec.arenaBytes));
      this.#undo.add('arena map', () => map.close());
      offer(map);

      const arena = device.createArena(map);
      this.#undo.add('arena device', () => arena.owner.close());
      this.#devicePath = arena.devicePath;

      const taken = own ? { vm: emptyVm(), process: pidfdOpen(pid) } : takeVm(pid);
      this.#process = taken.process;
      this.#undo.add('process descriptor', () => taken.process.close());
      try {
        const vm = (this.#vm = device.attachVm(taken.vm));
        this.#undo.add('attachment', () => vm.close());
      } finally {
        // the module holds the VM itself; a second descriptor would keep the VM alive after its QEMU
        taken.vm.close();
      }
    } finally {
      device.close();
    }
    spec.signal?.throwIfAborted();

    if (elf) this.#program = this.#loadProgram(elf);

    if (spec.bus !== undefined) {
      const qmpPath = required(spec.qmpPath);
      const { bus, signal } = spec;
      const bytes = spec.arenaBytes;
      const devicePath = this.#devicePath;
      await plugArena({ qmpPath, devicePath, bytes, bus, timeoutMs: spec.qmpTimeoutMs, signal });
      this.#undo.add('arena in the VM', async () => {
        if (pidfdAlive(this.#process)) await unplugArena({ qmpPath, timeoutMs: spec.unplugTimeoutMs });
      });
    }
    if (this.#program) {
      await spec.prepare?.(this.maps());
      await this.link();
      this.#undo.add('link', () => this.unlink());
    }
  }

  #loadProgram(elf: Uint8Array): BpfProgram {
    const { hook, arenaBytes, programPath = 'program' } = this.#spec;
    const { symbols } = parseElf(elf);
    const has = (name: string): boolean => symbols.some((s) => s.name === name);
    this.#usesArena = has('arena');
    const object = BpfObject.load({
      name: path.basename(programPath).replace(/\..*$/, ''),
      elf,
      ...(this.#usesArena ? { reuse: { arena: this.#map.file } } : {}),
      ...(has('arena_bytes') ? { constants: { arena_bytes: arenaBytes } } : {}),
    });
    this.#object = object;
    this.#undo.add('program', () => object.close());
    return programFor(object, hook);
  }
}

/** The program of an object that is meant for a hook, by its section. Throws HT_BPF that names what there is. */
export function programFor(object: Pick<BpfObject, 'name' | 'programs'>, hook: KvmHook): BpfProgram {
  const section = `raw_tp.w/hyperturtle_${hook}`;
  const found = object.programs.find(
    (p) => p.section === section && p.type === BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
  );
  if (found) return found;
  const have = object.programs.map((p) => `${p.name} in ${p.section}`).join(', ') || 'none';
  throw new HyperturtleError(
    'HT_BPF',
    `object '${object.name}' has no program for hook ${hook}: one in SEC("${section}") expected, found: ${have}`,
  );
}

/** L1's module binds only an arena that says it is one. */
function offer(map: SharedArray): void {
  const memory = map.map();
  try {
    memory.store(0, HT_ARENA_OFFER);
  } finally {
    memory.close();
  }
}

function required(qmpPath: string | undefined): string {
  if (qmpPath === undefined)
    throw new HyperturtleError('HT_USAGE', 'give the QMP socket of the VM (--qmp), or --pid with --no-plug');
  return qmpPath;
}

function readProgram(file: string): Uint8Array {
  return readInput(file, 'give a compiled object (.bpf.o)');
}
