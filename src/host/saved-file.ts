/**
 * The file of a saved VM: 64 KiB that say what it is, then the state as QEMU wrote it. It has its name only when it is whole,
 * and its content is known by its SHA-256: QEMU itself notices a flipped bit of its guest's memory nowhere.
 */
import { createHash, randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { HyperturtleError, errnoCode, messageOf } from '../core/errors.ts';
import { fileError } from '../core/files.ts';
import { lazy } from '../core/lazy.ts';
import type { Output } from '../core/lazy.ts';

const MAGIC = 'HYPERTURTLE SAVED VM 1\n';
const HEAD_BYTES = 64 << 10;
const CHUNK_BYTES = 1 << 20;

const headSchema = lazy(() =>
  z.strictObject({
    vm: z.string().max(63),
    at: z.iso.datetime(),
    /** Arguments of the QEMU that it was saved from, its program first. */
    command: z.array(z.string()),
    /** Length of QEMU's state, which begins after 64 KiB. */
    bytes: z.int().positive(),
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
  }),
);
type SavedHead = Output<typeof headSchema>;

/**
 * Writes what comes, to its end. Throws HT_EXISTS when there is such a file, HT_NO_SPACE, HT_INTEGRITY when nothing came; then
 * nothing is left of it.
 */
export class SavedFile {
  readonly #name: string;
  readonly #part: string;
  readonly #file: FileHandle;

  private constructor(name: string, part: string, file: FileHandle) {
    this.#name = name;
    this.#part = part;
    this.#file = file;
  }

  static async create(name: string): Promise<SavedFile> {
    const there = await open(name, 'r').catch((e: unknown) => {
      if (errnoCode(e) === 'ENOENT') return undefined;
      throw fileError(e, 'cannot be looked at', name);
    });
    await there?.close();
    if (there)
      throw new HyperturtleError('HT_EXISTS', `${name}: there is a file of that name: choose another`);
    const part = path.join(path.dirname(name), `.${path.basename(name)}.${randomBytes(6).toString('hex')}`);
    try {
      return new SavedFile(name, part, await open(part, 'wx', 0o600));
    } catch (e) {
      throw fileError(e, 'cannot be made', part);
    }
  }

  /** All of `from`. It has its name when this returns, and is on the disk. */
  async take(from: AsyncIterable<Buffer>, about: Pick<SavedHead, 'vm' | 'command'>): Promise<SavedHead> {
    const hash = createHash('sha256');
    let bytes = 0;
    try {
      for await (const chunk of from) {
        hash.update(chunk);
        await writeAll(this.#file, chunk, HEAD_BYTES + bytes);
        bytes += chunk.length;
      }
      if (bytes === 0) throw new HyperturtleError('HT_INTEGRITY', `${this.#name}: QEMU wrote no state`);
      const head = { ...about, at: new Date().toISOString(), bytes, sha256: hash.digest('hex') };
      await writeAll(this.#file, headBytes(head), 0);
      return head;
    } catch (e) {
      throw e instanceof HyperturtleError ? e : fileError(e, 'cannot be written', this.#part);
    }
  }

  /** After `take`, when the state is known to be whole. */
  async keep(): Promise<void> {
    await this.#file.sync();
    await this.#file.close();
    await rename(this.#part, this.#name);
    const directory = await open(path.dirname(this.#name), 'r');
    await directory.sync();
    await directory.close();
  }

  async discard(): Promise<void> {
    await this.#file.close().catch(() => {}); // closed
    await rm(this.#part, { force: true });
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
}

function headBytes(head: SavedHead): Uint8Array {
  const text = Buffer.from(`${MAGIC}${JSON.stringify(head)}\n`, 'utf8');
  if (text.length > HEAD_BYTES)
    throw new HyperturtleError(
      'HT_UNSUPPORTED',
      `the arguments of this QEMU are longer than ${HEAD_BYTES} bytes`,
    );
  return Buffer.concat([text], HEAD_BYTES);
}

/** What a file says that it is. The content is checked by `content()`. Throws HT_NOT_FOUND, HT_INTEGRITY. */
export async function readSaved(name: string): Promise<SavedHead> {
  return withFile(name, async (file) => {
    const bytes = Buffer.alloc(HEAD_BYTES);
    const { bytesRead } = await file.read(bytes, 0, HEAD_BYTES, 0);
    const text = bytes.toString('utf8', 0, bytesRead);
    if (!text.startsWith(MAGIC)) throw notSaved(name, `it does not begin with '${MAGIC.trim()}'`);
    let head: SavedHead;
    try {
      head = headSchema().parse(JSON.parse(text.slice(MAGIC.length, text.indexOf('\n', MAGIC.length))));
    } catch (e) {
      throw notSaved(name, `its head cannot be read: ${messageOf(e)}`);
    }
    const { size } = await file.stat();
    if (size !== HEAD_BYTES + head.bytes)
      throw notSaved(name, `${HEAD_BYTES + head.bytes} bytes expected, ${size} found`);
    return head;
  });
}

/** Throws HT_INTEGRITY when a bit of it is another than was saved. */
export async function checkSaved(name: string, head: SavedHead): Promise<void> {
  const hash = createHash('sha256');
  for await (const chunk of savedState(name)) hash.update(chunk);
  const found = hash.digest('hex');
  if (found !== head.sha256) throw notSaved(name, `SHA-256 ${head.sha256} expected, ${found} found`);
}

/** QEMU's state, in pieces. */
export async function* savedState(name: string): AsyncGenerator<Buffer> {
  const file = await open(name, 'r');
  try {
    for (let at = HEAD_BYTES; ; ) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES, at);
      if (bytesRead === 0) return;
      yield chunk.subarray(0, bytesRead);
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

async function withFile<T>(name: string, work: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    file = await open(name, 'r');
  } catch (e) {
    if (errnoCode(e) === 'ENOENT')
      throw new HyperturtleError(
        'HT_NOT_FOUND',
        `${name}: there is no such file: one of 'hyperturtle host save' expected`,
      );
    throw fileError(e, "a file of 'hyperturtle host save' is expected", name);
  }
  try {
    return await work(file);
  } finally {
    await file.close();
  }
}

const notSaved = (name: string, why: string): HyperturtleError =>
  new HyperturtleError('HT_INTEGRITY', `${name} is no whole file of 'hyperturtle host save': ${why}`);

/** What to start for it: the same QEMU, without the arena, which waits for its state. */
export function startAgain(command: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i < command.length; i++) {
    const [option = '', value = ''] = [command[i], command[i + 1]];
    const arena =
      (/^--?object$/.test(option) && /id["=:\s]*hyperturtle-memory\b/.test(value)) ||
      (/^--?device$/.test(option) && /^(\{.*"|)ivshmem-plain\b/.test(value));
    if (arena || /^--?incoming$/.test(option)) i++;
    else kept.push(option);
  }
  return [...kept, '-incoming', 'defer'];
}
