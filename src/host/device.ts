/**
 * Client of /dev/hyperturtle. Each object owns the descriptor that the module gave for it: closing it, also by the
 * death of this process, undoes it in the kernel.
 */
import { readSync } from 'node:fs';
import type { Caller } from '../bpf/calls.ts';
import { here } from '../bpf/calls.ts';
import type { OwnedFd } from '../bpf/fds.ts';
import { requireKnownKvm } from '../bpf/kvm-abi.ts';
import type { SharedArray } from '../bpf/map.ts';
import { whenReadable } from '../bpf/poll.ts';
import { closeBy, ioctl, ioctlBy, ioctlFd, openDevice } from '../bpf/sys.ts';
import type { Explain } from '../bpf/sys.ts';
import { HyperturtleError } from '../core/errors.ts';
import {
  HOOKS,
  HT_HOOKS,
  HT_LINK_ENDED,
  HOST_DEVICE,
  HT_ARENA_CREATE,
  HT_ARENA_CREATE_ARG,
  HT_ATTACH_VM,
  HT_ATTACH_VM_ARG,
  HT_GET_ABI,
  HT_GET_STATS,
  HT_HOST_ABI,
  HT_LINK_ARG,
  HT_LINK_REPLACE,
  HT_RUN,
  HT_STATS,
  HT_VM_CALL,
  HT_VM_CALL_ARG,
  HT_VM_LINK,
  HT_VM_RUN,
  HT_VM_UNLINK,
} from '../kernel/host.ts';
import type { KvmHook } from '../kernel/host.ts';
import { HT_CALL_CTX, HT_CALL_HANDLED, callReasonName } from '../kernel/call.ts';
import { HT_EXIT_CTX } from '../kernel/exit.ts';
import { HT_NPF_CTX } from '../kernel/npf.ts';
import type { Fields, StructCodec, ValueOf } from '../kernel/struct.ts';
import { u32, viewOf } from '../kernel/struct.ts';
import { linkArgs } from './link-args.ts';
import type { KvmLinkOptions } from './link-args.ts';
import { hookStats } from './stats.ts';
import type { HookStats } from './stats.ts';

/** The contexts that test runs can be made with. */
const CONTEXTS = { npf: HT_NPF_CTX, exit: HT_EXIT_CTX, call: HT_CALL_CTX } as const;
export type RunnableHook = keyof typeof CONTEXTS;
type ContextOf<H extends RunnableHook> = ValueOf<(typeof CONTEXTS)[H]>;
/** Values of struct ht_npf_ctx. */
export type NpfContext = ContextOf<'npf'>;

export interface ExportedArena {
  /** `/dev/hyperturtle-arena0`: there until `owner` is closed. */
  devicePath: string;
  bytes: number;
  owner: OwnedFd;
}

export interface RunSpec<H extends RunnableHook = 'npf'> {
  hook: H;
  /** 1..1000000 */
  repeat: number;
  context: Partial<ContextOf<H>>;
}

export interface RunResult<H extends RunnableHook = 'npf'> {
  /** All runs together. */
  ns: number;
  nsPerRun: number;
  /** After the last run. */
  context: ContextOf<H>;
}

/** A loaded program: one of a BpfObject, or a descriptor of one that another process loaded. */
export interface LinkableProgram {
  readonly name: string;
  readonly fd: number;
}

/** A call as the channel makes it. */
export interface CallRequest {
  /** BPF id of the program that is meant. */
  programId: number;
  number: number;
  /** At most 6; the rest are 0. */
  words: readonly bigint[];
}

export interface CallAnswer {
  answered: boolean;
  /** Four words; zeros when it was not answered. */
  results: bigint[];
  /** Why it was not, by name. */
  reason?: string;
}

export interface LinkOptions {
  /** Take the place of a linked program at once: each event runs the one or the other, none runs neither. */
  replace?: boolean;
  /** What the link asks of its hook. Throws HT_USAGE when they are another hook's. */
  options?: KvmLinkOptions | undefined;
}

const NOT_ATTACHED: Explain = {
  ENOENT: ['HT_NOT_FOUND', "no VM of this process is attached: run 'hyperturtle host attach' first"],
};

export class HostDevice implements Disposable {
  readonly #file: OwnedFd;

  private constructor(file: OwnedFd) {
    this.#file = file;
  }

  /** Throws HT_NOT_FOUND without the module, HT_UNSUPPORTED when it speaks another ABI. */
  static open(devicePath: string = HOST_DEVICE): HostDevice {
    const file = openDevice(devicePath, 'load hyperturtle_host.ko on this host (modprobe or insmod)');
    try {
      const arg = new Uint8Array(u32.size);
      ioctl(file, HT_GET_ABI, arg, {
        ENOTTY: ['HT_UNSUPPORTED', 'this is not the device of hyperturtle_host.ko'],
      });
      const abi = u32.read(viewOf(arg), 0);
      if (abi !== HT_HOST_ABI)
        throw new HyperturtleError(
          'HT_UNSUPPORTED',
          `${devicePath} speaks ABI ${abi}, this program ABI ${HT_HOST_ABI}: install the module of this version`,
        );
      return new HostDevice(file);
    } catch (e) {
      file.close();
      throw e;
    }
  }

  /** Exports the map's memory as a device file for QEMU. */
  createArena(map: SharedArray): ExportedArena {
    const arg = HT_ARENA_CREATE_ARG.encode({ map_fd: map.file.fd });
    const owner = ioctlFd(this.#file, HT_ARENA_CREATE, arg, 'exported arena', {
      EINVAL: [
        'HT_KERNEL',
        'the module refuses this map: one mmapable array value, a power of two, expected',
      ],
      ENOSPC: ['HT_NO_SPACE', 'the module exports as many arenas as it can: end some'],
    });
    const made = HT_ARENA_CREATE_ARG.decode(arg);
    return { devicePath: `/dev/${made.name}`, bytes: made.bytes, owner };
  }

  /**
   * `call`: how calls that wait for the VM's vCPUs are made; left out, on this thread. Throws HT_UNSUPPORTED where KVM
   * differs from what the module relies on.
   */
  attachVm(vm: OwnedFd, call: Caller = here): AttachedVm {
    requireKnownKvm('host');
    const arg = HT_ATTACH_VM_ARG.encode({ vm_fd: vm.fd });
    const file = ioctlFd(this.#file, HT_ATTACH_VM, arg, `attachment of ${vm.what}`, {
      EBUSY: ['HT_BUSY', 'it is attached already: end the other hyperturtle host attach first'],
      EBADF: ['HT_KERNEL', 'this is not a KVM virtual machine'],
    });
    return new AttachedVm(file, call);
  }

  /** Statistics of the attached VM that process `pid` runs, no matter who attached it. */
  stats(pid: number, hook: KvmHook): HookStats {
    const arg = HT_STATS.encode({ hook: HOOKS[hook], pid });
    ioctl(this.#file, HT_GET_STATS, arg, NOT_ATTACHED);
    return hookStats(hook, HT_STATS.decode(arg));
  }

  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A link that the module has ended, as runs of its program took too long. */
export interface EndedLink {
  hook: KvmHook;
  /** BPF id. */
  programId: number;
  /** How long the last of these runs took, and how long none should. */
  ns: number;
  limitNs: number;
}

/** Closing it unlinks all and detaches the VM. */
export class AttachedVm implements AsyncDisposable {
  readonly #file: OwnedFd;
  readonly #call: Caller;

  /** Takes over the descriptor that ATTACH_VM returned. */
  constructor(file: OwnedFd, call: Caller) {
    this.#file = file;
    this.#call = call;
  }

  /**
   * Throws HT_BUSY when the hook has a program and `replace` is not set. The kernel keeps program and arena until they
   * are unlinked or replaced; no run of a replaced program is under way when it settles. Until then `program` and `arena`
   * must stay open.
   */
  async link(
    hook: KvmHook,
    program: LinkableProgram,
    arena?: SharedArray,
    options: LinkOptions = {},
  ): Promise<void> {
    const arg = HT_LINK_ARG.encode({
      hook: HOOKS[hook],
      prog_fd: program.fd,
      arena_fd: arena ? arena.file.fd : -1,
      flags: options.replace === true ? HT_LINK_REPLACE : 0,
      args: linkArgs(hook, options.options),
    });
    await ioctlBy(this.#call, this.#file, HT_VM_LINK, arg, {
      EBUSY: ['HT_BUSY', `hook ${hook} has a program already: unlink it first`],
      EINVAL: [
        'HT_BPF',
        `program '${program.name}' does not fit hook ${hook}: a SEC("raw_tp.w/hyperturtle_${hook}") program that uses the map 'arena' expected`,
      ],
      EOPNOTSUPP: [
        'HT_UNSUPPORTED',
        `this host has no hook ${hook}: load hyperturtle_host.ko after KVM's module (the kernel's log says more)`,
      ],
      E2BIG: ['HT_BPF', `program '${program.name}' reaches beyond the context of hook ${hook}`],
    });
  }

  /** No run of the program is under way when it settles. */
  async unlink(hook: KvmHook): Promise<void> {
    const arg = HT_LINK_ARG.encode({ hook: HOOKS[hook], prog_fd: -1, arena_fd: -1 });
    await ioctlBy(this.#call, this.#file, HT_VM_UNLINK, arg, {
      ENOENT: ['HT_NOT_FOUND', `hook ${hook} has no program`],
    });
  }

  /** Never waits for a link that is just being made or ended. */
  stats(hook: KvmHook): HookStats {
    const arg = HT_STATS.encode({ hook: HOOKS[hook] });
    ioctl(this.#file, HT_GET_STATS, arg);
    return hookStats(hook, HT_STATS.decode(arg));
  }

  /**
   * Runs the program that is linked to the hook `call`, once, on this thread; waits for nothing. Throws HT_NOT_FOUND when
   * that is another one or none, HT_USAGE for a number that its link does not have, HT_UNSUPPORTED when it uses an arena.
   */
  call({ programId, number, words }: CallRequest): CallAnswer {
    const arg = HT_VM_CALL_ARG.encode({ prog_id: programId, number, words: [...words] });
    ioctl(this.#file, HT_VM_CALL, arg, {
      ENOENT: ['HT_NOT_FOUND', 'the program is not linked to hook call'],
      EINVAL: ['HT_USAGE', `${number} is no number of its link`],
      EBUSY: [
        'HT_UNSUPPORTED',
        "the program uses the arena, so it runs on the VM's CPUs only: call it from there (hyperturtle call --direct)",
      ],
      ENOTTY: [
        'HT_UNSUPPORTED',
        'hyperturtle_host.ko is older than this program: install the one of this version',
      ],
    });
    const { action, results, reason } = HT_VM_CALL_ARG.decode(arg);
    return action === HT_CALL_HANDLED
      ? { answered: true, results }
      : { answered: false, results, reason: callReasonName(reason) };
  }

  /** Waits for links that the module has ended and gives them. Not to be closed meanwhile. Throws the signal's reason. */
  async endedLinks(signal: AbortSignal): Promise<EndedLink[]> {
    await whenReadable(this.#file, signal);
    const buffer = new Uint8Array(HT_LINK_ENDED.size * HT_HOOKS);
    // readable, and we alone read it: this does not wait
    const bytes = readSync(this.#file.fd, buffer, 0, buffer.length, null);
    const ended: EndedLink[] = [];
    for (let at = 0; at + HT_LINK_ENDED.size <= bytes; at += HT_LINK_ENDED.size) {
      const e = HT_LINK_ENDED.decode(buffer.subarray(at, at + HT_LINK_ENDED.size));
      const hook = (Object.keys(HOOKS) as KvmHook[]).find((name) => HOOKS[name] === e.hook);
      if (hook) ended.push({ hook, programId: e.prog_id, ns: e.ns, limitNs: e.limit_ns });
    }
    return ended;
  }

  /**
   * Runs the linked program on a context of the caller's. Blocks until all runs are done. Throws HT_BUSY for a VM that has
   * CPUs, or with an arena that a VM has.
   */
  run<H extends RunnableHook>(spec: RunSpec<H>): RunResult<H> {
    // what is left out is zero; TypeScript does not relate a generic member of the table to its codec
    const codec = CONTEXTS[spec.hook] as unknown as StructCodec<Fields>;
    const ctx = codec.encode(spec.context);
    const arg = HT_RUN.encode({ hook: HOOKS[spec.hook], repeat: spec.repeat, ctx });
    ioctl(this.#file, HT_VM_RUN, arg, {
      ENOENT: ['HT_NOT_FOUND', `hook ${spec.hook} has no program to run`],
      EINVAL: ['HT_USAGE', 'from 1 to 1000000 runs expected'],
      EBUSY: [
        'HT_BUSY',
        'programs are not run beside the guest: a VM without CPUs and an arena of its own expected',
      ],
    });
    const out = HT_RUN.decode(arg);
    return { ns: out.ns, nsPerRun: out.ns / spec.repeat, context: codec.decode(out.ctx) as ContextOf<H> };
  }

  async close(): Promise<void> {
    await closeBy(this.#call, this.#file);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
