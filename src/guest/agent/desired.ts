/**
 * The desired state: which objects and links this machine wants in its host. The configuration file says so, and
 * commands change it; what they changed is kept (state-file.ts) and wins.
 */
import { HyperturtleError, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { readInput } from '../../core/files.ts';
import { KEY_BYTES_MAX } from '../../core/signature.ts';
import { canonical } from '../../net/policy.ts';
import type { ObjectPolicy } from '../../net/policy.ts';
import { Signature } from '../../wire/schema.ts';
import type { LinkOptions } from '../../wire/schema.ts';
import type { AgentConfig } from './config.ts';
import { omit, withoutUndefined } from './omit.ts';
import { StateFile, emptyState, sha256Of } from './state-file.ts';
import type { State, StoredLink } from './state-file.ts';
import { own } from '../../core/own.ts';

type Origin = 'config' | 'command';

export interface DesiredObject {
  name: string;
  sha256: string;
  signature?: Signature;
  /** Base64, by name of the variable. */
  constants?: Record<string, string>;
  /** What its maps shall hold. */
  policy?: ObjectPolicy;
  origin: Origin;
}

export interface DesiredLink {
  object: string;
  program?: string;
  hook: string;
  target?: string;
  order?: number;
  options?: LinkOptions;
  origin: Origin;
}

export interface LinkSpec {
  object: string;
  program?: string | undefined;
  hook: string;
  target?: string | undefined;
  /** Among programs on one hook of a NIC. */
  order?: number | undefined;
  /** What is asked of the hook. */
  options?: LinkOptions | undefined;
}

export interface StagedChange {
  commit: () => void;
  discard: () => void;
}

interface ConfigObject extends DesiredObject {
  elf: Buffer;
}

/** Whether two links are one: a hook of a target has one program. A link without a program's name fits any. */
export function sameLink(
  a: Omit<LinkSpec, 'target'> & { target?: string | null | undefined },
  b: Omit<LinkSpec, 'target'> & { target?: string | null | undefined },
): boolean {
  return (
    a.object === b.object &&
    a.hook === b.hook &&
    (a.target ?? undefined) === (b.target ?? undefined) &&
    (a.program === undefined || b.program === undefined || a.program === b.program)
  );
}

export class DesiredState {
  readonly #file: StateFile;
  #state: State;
  #config: AgentConfig;
  #fromConfig = new Map<string, ConfigObject>();
  #unreadable: { name: string; message: string }[] = [];
  readonly #stateProblem: string | undefined;
  /** While a change is only staged: what comes of it. */
  #change: { state: State | undefined } | undefined;

  constructor(config: AgentConfig) {
    this.#config = config;
    this.#file = new StateFile(config.state);
    const { state, problem } = this.#file.read();
    this.#state = state;
    this.#stateProblem = problem;
    this.refresh();
  }

  /** Takes another configuration (its state directory is not changed), and reads its objects. */
  setConfig(config: AgentConfig): void {
    this.#config = config;
    this.refresh();
  }

  /** Reads the configuration's objects again: their files may have been replaced. */
  refresh(): void {
    this.#fromConfig = new Map();
    this.#unreadable = [];
    for (const [name, spec] of Object.entries(this.#config.objects))
      try {
        const elf = readInput(spec.file, 'a compiled object (.bpf.o) expected');
        const signature = readSignature(spec.signature ?? `${spec.file}.sig`, spec.signature !== undefined);
        this.#fromConfig.set(name, {
          name,
          sha256: sha256Of(elf),
          elf,
          origin: 'config',
          ...(signature ? { signature } : {}),
          ...(spec.constants ? { constants: spec.constants } : {}),
          ...(spec.policy ? { policy: canonical(spec.policy) } : {}),
        });
      } catch (e) {
        this.#unreadable.push({ name, message: messageOf(e) });
      }
  }

  /** What is wanted but is not possible for reasons of this machine. */
  problems(): { step: string; message: string }[] {
    return [
      ...(this.#stateProblem === undefined ? [] : [{ step: 'read state', message: this.#stateProblem }]),
      ...this.#unreadable
        .filter(({ name }) => own(this.#state.objects, name) === undefined)
        .map(({ name, message }) => ({ step: `read ${name}`, message })),
    ];
  }

  objects(): DesiredObject[] {
    const all = new Map<string, DesiredObject>(this.#fromConfig);
    for (const [name, stored] of Object.entries(this.#state.objects))
      if (stored) all.set(name, { name, ...withoutUndefined(stored), origin: 'command' });
      else all.delete(name);
    return [...all.values()].map((o) => {
      const policy = own(this.#state.policies, o.name) ?? this.#fromConfig.get(o.name)?.policy;
      return policy ? { ...o, policy } : o;
    });
  }

  /** Objects that are wanted, but whose file cannot be read now: what the host has of them stays. */
  unreadable(): string[] {
    return this.#unreadable.map((u) => u.name).filter((name) => own(this.#state.objects, name) === undefined);
  }

  links(): DesiredLink[] {
    const kept = this.#config.links.filter((c) => !this.#state.links.some((s) => sameLink(c, s)));
    return [
      ...kept.map((l) => ({ ...withoutUndefined(l), origin: 'config' as const })),
      ...this.#state.links
        .filter((l) => l.removed === undefined)
        .map((l) => ({ ...withoutUndefined(omit(l, 'removed')), origin: 'command' as const })),
    ];
  }

  /** What commands took out of the configuration, for people. */
  removed(): string[] {
    return [
      ...Object.entries(this.#state.objects).flatMap(([name, o]) => (o ? [] : [name])),
      ...this.#state.links.filter((l) => l.removed).map((l) => `${l.object} at ${l.hook}`),
    ];
  }

  /** Throws HT_NOT_FOUND when a stored one has gone. */
  elfOf(object: DesiredObject): Buffer {
    const configured = this.#fromConfig.get(object.name);
    if (object.origin === 'config' && configured?.sha256 === object.sha256) return configured.elf;
    return this.#file.readObject(object.sha256);
  }

  putObject(spec: {
    name: string;
    elf: Uint8Array;
    signature?: Signature | undefined;
    constants?: Record<string, string> | undefined;
  }): void {
    const sha256 = this.#file.putObject(spec.elf);
    this.#save({
      ...this.#state,
      objects: {
        ...this.#state.objects,
        [spec.name]: {
          sha256,
          ...(spec.signature ? { signature: spec.signature } : {}),
          ...(spec.constants ? { constants: spec.constants } : {}),
        },
      },
    });
  }

  /** Its links go with it. False when it was not wanted. */
  removeObject(name: string): boolean {
    if (!this.objects().some((o) => o.name === name) && !Object.hasOwn(this.#config.objects, name))
      return false;
    const others = omit(this.#state.objects, name);
    const objects = Object.hasOwn(this.#config.objects, name) ? { ...others, [name]: null } : others;
    this.#save({
      ...this.#state,
      objects,
      links: this.#linksWithout((l) => l.object === name),
      policies: omit(this.#state.policies, name),
    });
    return true;
  }

  /** The object's, whichever origin that has. In canonical form. */
  putPolicy(name: string, policy: ObjectPolicy): void {
    this.#save({ ...this.#state, policies: { ...this.#state.policies, [name]: policy } });
  }

  putLink(link: LinkSpec): void {
    const { object, program, hook, target, order, options } = link;
    const stored: StoredLink = {
      object,
      hook,
      ...(program === undefined ? {} : { program }),
      ...(target === undefined ? {} : { target }),
      ...(order === undefined ? {} : { order }),
      ...(options === undefined ? {} : { options }),
    };
    this.#save({ ...this.#state, links: [...this.#state.links.filter((l) => !sameLink(l, stored)), stored] });
  }

  /** False when it was not wanted. */
  removeLink(link: LinkSpec): boolean {
    if (!this.links().some((l) => sameLink(l, link))) return false;
    this.#save({ ...this.#state, links: this.#linksWithout((l) => sameLink(l, link)) });
    return true;
  }

  /** These objects, their links, and all links to that target. */
  removeTarget(target: string, objects: readonly string[]): void {
    const removed = objects.filter((name) => Object.hasOwn(this.#config.objects, name));
    this.#save({
      ...this.#state,
      objects: {
        ...omit(this.#state.objects, ...objects),
        ...Object.fromEntries(removed.map((name) => [name, null])),
      },
      links: this.#linksWithout((l) => l.target === target || objects.includes(l.object)),
      policies: omit(this.#state.policies, ...objects),
    });
  }

  /** From now on the configuration alone says what is wanted. */
  forget(): void {
    this.#save(emptyState());
  }

  /** The stored links once those that match are gone; those of the configuration are marked so. */
  #linksWithout(matches: (l: LinkSpec) => boolean): StoredLink[] {
    return [
      ...this.#state.links.filter((l) => !matches(l)),
      ...this.#config.links.filter(matches).map((l) => ({ ...withoutUndefined(l), removed: true as const })),
    ];
  }

  #save(state: State): void {
    if (this.#change) this.#change = { state };
    else this.#stage(state).commit();
  }

  #stage(state: State): StagedChange {
    const staged = this.#file.stage(state);
    return {
      commit: () => {
        staged.commit();
        this.#state = state;
      },
      discard: () => {
        staged.discard();
        this.#file.sweep(this.#state);
      },
    };
  }

  /**
   * Writes down what one of the methods above would make of the state, but beside the one in force, until `commit`. So what cannot
   * be written down is not done either. Throws as they do, and HT_NO_SPACE and HT_KERNEL.
   */
  stage(change: () => void): StagedChange {
    this.#change = { state: undefined };
    try {
      change();
      const { state } = this.#change;
      return state === undefined ? { commit: () => {}, discard: () => {} } : this.#stage(state);
    } catch (e) {
      this.#file.sweep(this.#state);
      throw e;
    } finally {
      this.#change = undefined;
    }
  }
}

function readSignature(file: string, required: boolean): Signature | undefined {
  let text: string;
  try {
    text = readInput(file, 'a signature expected', KEY_BYTES_MAX).toString('utf8');
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND') && !required) return undefined;
    throw e;
  }
  return parseSignature(text, file);
}

/** Content of a FILE.sig. Throws HT_CONFIG. */
export function parseSignature(text: string, file: string): Signature {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    json = undefined;
  }
  const parsed = Signature().safeParse(json);
  if (!parsed.success)
    throw new HyperturtleError(
      'HT_CONFIG',
      `${file}: a signature of 'hyperturtle sign' expected ({"keyId": ..., "value": ...})`,
    );
  return parsed.data;
}
