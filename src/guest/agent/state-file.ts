/**
 * What commands changed of the desired state, on disk: `agent.json`, replaced as a whole, and beside it the objects
 * by their hash. A crash at any moment leaves the old state or the new one.
 */
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { makeDirectory, replaceFile, stageFile } from '../../core/files.ts';
import { HyperturtleError, errnoCode, messageOf } from '../../core/errors.ts';
import { ObjectPolicy } from '../../net/policy.ts';
import { Constants, Name, Sha256, Signature, LinkOptions, LinkOrder } from '../../wire/schema.ts';
import { recordOf } from '../../core/record.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

const StoredObject = lazy(() =>
  z.strictObject({
    sha256: Sha256(),
    signature: Signature().optional(),
    constants: Constants().optional(),
  }),
);
type StoredObject = Output<typeof StoredObject>;

const StoredLink = lazy(() =>
  z.strictObject({
    object: Name(),
    program: Name().optional(),
    hook: Name(),
    target: z.string().optional(),
    order: LinkOrder().optional(),
    options: LinkOptions().optional(),
    /** A link of the configuration file that is not wanted any more. */
    removed: z.literal(true).optional(),
  }),
);
export type StoredLink = Output<typeof StoredLink>;

const State = lazy(() =>
  z.strictObject({
    version: z.literal(1),
    /** Null: an object of the configuration file that is not wanted any more. */
    objects: recordOf(Name(), StoredObject().nullable()),
    links: z.array(StoredLink()),
    /** What the maps of objects shall hold, of either origin, by name. */
    policies: recordOf(Name(), ObjectPolicy()).default({}),
  }),
);
export type State = Output<typeof State>;

export const emptyState = (): State => ({ version: 1, objects: {}, links: [], policies: {} });

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const RECORD = { mode: 0o600, sync: true, what: 'the state cannot be written' } as const;

export class StateFile {
  readonly file: string;
  readonly #objects: string;

  /** Makes the directory. */
  constructor(dir: string) {
    this.file = path.join(dir, 'agent.json');
    this.#objects = path.join(dir, 'objects');
    makeDirectory(this.#objects, 0o700);
  }

  /** A file that cannot be read is put aside, and said to be so: the agent goes on with its configuration alone. */
  read(): { state: State; problem?: string } {
    let text: string;
    try {
      text = readFileSync(this.file, 'utf8');
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return { state: emptyState() };
      throw e;
    }
    try {
      return { state: State().parse(JSON.parse(text)) };
    } catch (e) {
      const aside = `${this.file}.bad`;
      renameSync(this.file, aside);
      const why = e instanceof z.ZodError ? z.prettifyError(e).split('\n')[0] : messageOf(e);
      return {
        state: emptyState(),
        problem: `${this.file} could not be read (${why ?? ''}); it is kept as ${aside}: load again what commands had loaded`,
      };
    }
  }

  /**
   * Writes the next state beside the one in force, durably: where there is no room, that shows here. `commit` is a rename; neither
   * leaves anything behind.
   */
  stage(state: State): { commit: () => void; discard: () => void } {
    const staged = stageFile(this.file, `${JSON.stringify(state, null, 2)}\n`, RECORD);
    return {
      commit: () => {
        staged.commit();
        this.sweep(state);
      },
      discard: staged.discard,
    };
  }

  /** Removes objects that the state does not name. */
  sweep(state: State): void {
    const used = new Set(Object.values(state.objects).flatMap((o) => (o ? [o.sha256] : [])));
    for (const name of readdirSync(this.#objects))
      if (!used.has(name.replace(/\.bpf\.o$/, ''))) rmSync(path.join(this.#objects, name), { force: true });
  }

  putObject(elf: Uint8Array): string {
    const sha256 = sha256Of(elf);
    replaceFile(this.#objectFile(sha256), elf, RECORD);
    return sha256;
  }

  /** Throws HT_NOT_FOUND when it is not there or not what it was. */
  readObject(sha256: string): Buffer {
    const file = this.#objectFile(sha256);
    let elf: Buffer;
    try {
      elf = readFileSync(file);
    } catch (e) {
      throw new HyperturtleError('HT_NOT_FOUND', `${messageOf(e)}: load the object again`, { cause: e });
    }
    if (sha256Of(elf) !== sha256)
      throw new HyperturtleError('HT_NOT_FOUND', `${file} has been changed: load the object again`);
    return elf;
  }

  #objectFile(sha256: string): string {
    return path.join(this.#objects, `${sha256}.bpf.o`);
  }
}
