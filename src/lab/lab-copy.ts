/** `lab cp`: one file between the host and L0 or L1, with its permissions. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import type { Lab } from './lab.ts';
import type { Level } from './levels.ts';
import { run } from './levels.ts';

interface Place {
  /** Undefined: the host. */
  level: Level | undefined;
  path: string;
}

/** The guest agent moves some MiB a second: larger things belong into the payload. */
const TIMEOUT_MS = 600_000;

export function parsePlace(text: string): { level: 0 | 1 | undefined; path: string } {
  const m = /^l([01]):(.*)$/s.exec(text);
  if (m) {
    if (!m[2]!.startsWith('/'))
      throw new HyperturtleError('HT_USAGE', `'${text}': an absolute path expected after l${m[1]}:`);
    return { level: m[1] === '0' ? 0 : 1, path: m[2]! };
  }
  if (/^l\d+:/.test(text))
    throw new HyperturtleError('HT_USAGE', `'${text}': files are copied to and from l0: and l1: only`);
  return { level: undefined, path: text };
}

export async function copyFile(lab: Lab, from: string, to: string, signal?: AbortSignal): Promise<void> {
  const place = (text: string): Place => {
    const p = parsePlace(text);
    return { level: p.level === undefined ? undefined : p.level === 0 ? lab.l0 : lab.l1, path: p.path };
  };
  const source = place(from);
  const target = place(to);
  if (!source.level && !target.level)
    throw new HyperturtleError('HT_USAGE', 'neither is in the lab: give one of them as l0:/path or l1:/path');
  const options = { timeoutMs: TIMEOUT_MS, signal };
  const { data, mode } = source.level
    ? {
        data: await source.level.readFile(source.path, options),
        mode: parseInt(await run(source.level, ['stat', '-c', '%a', source.path], options), 8),
      }
    : await readHost(source.path);
  const file = await asFile(target, path.basename(source.path));
  if (target.level) await target.level.writeFile(file, data, { ...options, mode });
  else await writeFile(file, data, { mode });
}

async function readHost(file: string): Promise<{ data: Buffer; mode: number }> {
  try {
    return { data: await readFile(file), mode: (await stat(file)).mode & 0o777 };
  } catch (e) {
    throw new HyperturtleError('HT_NOT_FOUND', `cannot read ${file}: ${messageOf(e)}`, { cause: e });
  }
}

/** As cp(1) does: into a directory under its own name. */
async function asFile(target: Place, name: string): Promise<string> {
  const isDirectory = target.level
    ? (await target.level.exec(['test', '-d', target.path])).status === 0
    : await stat(target.path).then(
        (s) => s.isDirectory(),
        () => false,
      );
  return isDirectory ? path.join(target.path, name) : target.path;
}
