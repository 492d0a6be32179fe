/**
 * What was made for each attachment, written before it is made: DEL and GC find by it what a killed ADD left. One file
 * an attachment.
 */
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { errnoCode, messageOf } from '../core/errors.ts';
import { fileError, replaceFile } from '../core/files.ts';
import type { Attachment } from './config.ts';
import { CniError } from './errors.ts';
import { recordOf } from '../core/record.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const AttachmentState = lazy(() =>
  z.strictObject({
    network: z.string(),
    containerId: z.string(),
    ifname: z.string(),
    mode: z.enum(['direct', 'veth']),
    /** The host's NIC. */
    nic: z.string().nullable(),
    /** The pod had it before: it stays when the attachment goes. */
    given: z.boolean().default(false),
    /** What the delegates were given: their DEL wants the same. */
    config: recordOf(z.string(), z.unknown()),
  }),
);
export type AttachmentState = Output<typeof AttachmentState>;

/** Short, and the same for the same attachment: also the id of its NIC. */
export function attachmentId(network: string, a: Attachment): string {
  return `cni-${createHash('sha256').update(`${network}\0${a.containerId}\0${a.ifname}`).digest('hex').slice(0, 16)}`;
}

/** CniError IO_FAILURE that names the path and the reason. */
function failure(e: unknown, what: string, file: string): CniError {
  return new CniError('IO_FAILURE', `stateDir: ${messageOf(fileError(e, what, file))}`);
}

/** All methods throw CniError IO_FAILURE where the file system fails. */
export class StateDir {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  write(state: AttachmentState): void {
    const file = this.#file(attachmentId(state.network, state));
    try {
      replaceFile(file, JSON.stringify(state), { mode: 0o600, directoryMode: 0o700 });
    } catch (e) {
      throw new CniError('IO_FAILURE', `stateDir: ${messageOf(e)}`);
    }
  }

  /** Undefined when there is none, or its content is not ours. */
  read(network: string, a: Attachment): AttachmentState | undefined {
    return this.#parse(this.#file(attachmentId(network, a)));
  }

  remove(network: string, a: Attachment): void {
    const file = this.#file(attachmentId(network, a));
    try {
      rmSync(file, { force: true });
    } catch (e) {
      throw failure(e, 'the record cannot be removed', file);
    }
  }

  /** Attachments of one network. */
  all(network: string): AttachmentState[] {
    return this.#records().filter((s) => s.network === network);
  }

  /** Attachments, of any network, to a NIC that their pod was given. */
  ofGiven(nic: string): AttachmentState[] {
    return this.#records().filter((s) => s.given && s.nic === nic);
  }

  #records(): AttachmentState[] {
    return this.#names().flatMap((name) => this.#parse(path.join(this.#dir, name)) ?? []);
  }

  #names(): string[] {
    try {
      return readdirSync(this.#dir).filter((n) => n.endsWith('.json'));
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return [];
      throw failure(e, 'cannot be read', this.#dir);
    }
  }

  #parse(file: string): AttachmentState | undefined {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (e) {
      if (errnoCode(e) === 'ENOENT') return undefined;
      throw failure(e, 'the record cannot be read', file);
    }
    try {
      return AttachmentState().parse(JSON.parse(text));
    } catch {
      return undefined;
    }
  }

  #file(id: string): string {
    return path.join(this.#dir, `${id}.json`);
  }
}
