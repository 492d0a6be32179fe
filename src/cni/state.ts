/**
 * What was made for each attachment, written before it is made: DEL and GC find by it what a killed ADD left. One file
 * an attachment.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { errnoCode } from '../core/errors.ts';
import type { Attachment } from './config.ts';

const AttachmentState = z.strictObject({
  network: z.string(),
  containerId: z.string(),
  ifname: z.string(),
  mode: z.enum(['direct', 'veth']),
  /** The host's NIC. */
  nic: z.string().nullable(),
  /** What the delegates were given: their DEL wants the same. */
  config: z.record(z.string(), z.unknown()),
});
export type AttachmentState = z.output<typeof AttachmentState>;

/** Short, and the same for the same attachment: also the id of its NIC. */
export function attachmentId(network: string, a: Attachment): string {
  return `cni-${createHash('sha256').update(`${network}\0${a.containerId}\0${a.ifname}`).digest('hex').slice(0, 16)}`;
}

export class StateDir {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  write(state: AttachmentState): void {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    const file = this.#file(attachmentId(state.network, state));
    writeFileSync(`${file}.new`, JSON.stringify(state), { mode: 0o600 });
    renameSync(`${file}.new`, file);
  }

  /** Undefined when there is none, or it is not whole. */
  read(network: string, a: Attachment): AttachmentState | undefined {
    return this.#parse(this.#file(attachmentId(network, a)));
  }

  remove(network: string, a: Attachment): void {
    rmSync(this.#file(attachmentId(network, a)), { force: true });
  }

  /** Of one network. */
  all(network: string): AttachmentState[] {
    return this.#names().flatMap((name) => {
      const state = this.#parse(path.join(this.#dir, name));
      return state?.network === network ? [state] : [];
    });
  }

  #names(): string[] {
    try {
      return readdirSync(this.#dir).filter((n) => n.endsWith('.json'));
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return [];
      throw e;
    }
  }

  #parse(file: string): AttachmentState | undefined {
    try {
      return AttachmentState.parse(JSON.parse(readFileSync(file, 'utf8')));
    } catch {
      return undefined;
    }
  }

  #file(id: string): string {
    return path.join(this.#dir, `${id}.json`);
  }
}
