/** Hooks in KVM, one link each: `npf`, `exit`, `sample`, `call`. Links end with the daemon, as L1 does their work itself. */
import type { SharedArray } from '../../bpf/map.ts';
import { withoutUndefined } from '../../core/defined.ts';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { KVM_HOOKS } from '../../kernel/host.ts';
import type { KvmHook } from '../../kernel/host.ts';
import { wireFailure } from '../../wire/errors.ts';
import type { HookStats, LinkInfo } from '../../wire/schema.ts';
import type { CallAnswer, CallRequest } from '../device.ts';
import type { LoadedProgram } from '../loader/loader.ts';
import type { VmHooks } from './kernel.ts';
import type { Failures, HookBackend, LinkPlace, Version } from './hook-backend.ts';

export class KvmBackend implements HookBackend {
  readonly hooks = KVM_HOOKS;
  readonly #kernel: VmHooks;
  readonly #arena: SharedArray;

  constructor(kernel: VmHooks, arena: SharedArray) {
    this.#kernel = kernel;
    this.#arena = arena;
  }

  place(hook: string, { target, order }: LinkPlace): { target: null } {
    if (target === undefined && order === undefined) return { target: null };
    throw new HyperturtleError(
      'HT_USAGE',
      `hook ${hook} has no targets and one program: leave target and order out`,
    );
  }

  link(link: LinkInfo, of: Version, program: LoadedProgram): Promise<void> {
    return this.#link(link, of, program, false);
  }

  replace(link: LinkInfo, of: Version, program: LoadedProgram): Promise<void> {
    return this.#link(link, of, program, true);
  }

  async #link(
    { hook, options }: LinkInfo,
    { object, info }: Version,
    { name, file }: LoadedProgram,
    replace: boolean,
  ): Promise<void> {
    const arena = info.maps.some((m) => m.arena) ? this.#arena : undefined;
    try {
      await this.#kernel.link(nameOf(hook), { fd: file.fd, name }, arena, { replace, options });
    } catch (e) {
      if (isHyperturtleError(e, 'HT_BPF'))
        throw wireFailure('REFUSED', `object '${object.name}': ${e.message}`, {
          rule: 'hook',
          program: name,
        });
      if (isHyperturtleError(e, 'HT_BUSY')) throw wireFailure('HOOK_BUSY', e.message);
      throw e;
    }
  }

  async unlink({ hook }: LinkInfo): Promise<void> {
    try {
      await this.#kernel.unlink(nameOf(hook));
    } catch (e) {
      // the kernel has just ended it
      if (!isHyperturtleError(e, 'HT_NOT_FOUND')) throw e;
    }
  }

  linked(hook: KvmHook): boolean {
    return this.#kernel.stats(hook).linked;
  }

  call(request: CallRequest): CallAnswer {
    return this.#kernel.call(request);
  }

  stats(name: string, [link]: readonly LinkInfo[]): HookStats[] {
    const hook = nameOf(name);
    // what only the host is to know
    const own = { pid: undefined, programId: undefined, limitNs: undefined };
    return [
      {
        ...withoutUndefined({ ...this.#kernel.stats(hook), ...own }),
        ...(link ? { object: link.object, program: link.program } : {}),
      },
    ];
  }

  kept(): undefined {
    return undefined;
  }

  async release(links: readonly LinkInfo[], failures: Failures): Promise<LinkInfo[]> {
    const ended: LinkInfo[] = [];
    for (const link of links) if (await failures.during(() => this.unlink(link))) ended.push(link);
    return ended;
  }
}

function nameOf(hook: string): KvmHook {
  const found = KVM_HOOKS.find((h) => h === hook);
  if (found === undefined) throw new RangeError(`${hook} is no hook of KVM's`);
  return found;
}
