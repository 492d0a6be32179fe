/**
 * Carries out a plan of `hyperturtle kata install`, and undoes it. Whatever ends it in between, Kata reads what it read
 * before or all that is new: files appear whole, a launcher before what names it, and the record of them before them all.
 */
import {
  chmodSync,
  existsSync,
  lstatSync,
  readlinkSync,
  rmSync,
  rmdirSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import path from 'node:path';
import { HyperturtleError, errnoCode, isHyperturtleError, messageOf } from '../../core/errors.ts';
import { exec } from '../../core/exec.ts';
import { fileError, makeDirectory, readIfThere, replaceFile } from '../../core/files.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import { dropInsOf, kataRuntime, namedConfigurations } from './found.ts';
import type { FoundKata } from './found.ts';
import type { KataPlan, PlannedFile, Target } from './plan.ts';
import { RECORD, readRecord, removeRecord, writeRecord } from './record.ts';
import type { KataRecord } from './record.ts';
import { isForUs, settingsOf } from './settings.ts';
import { DROP_IN_NAME, MARK, realProgram } from './texts.ts';

const ENV_MS = 60_000;
/** Our mark is in the first lines. */
const HEAD_BYTES = 400;

export interface KataMachine {
  /** `/`, or where another machine's files are. */
  root: string;
  version: string;
  say: (line: string) => void;
  signal?: AbortSignal;
}

/** Throws what the failing step threw, after all steps before it were undone. */
export async function install(plan: KataPlan, m: KataMachine): Promise<void> {
  const before = new Map<Target, string | undefined>();
  for (const t of plan.targets) before.set(t, await refusal(t, { config: t.source }, m));
  const old = readRecord(m.root);
  const changed = plan.files.filter((f) => differs(m.root, f));
  const links = plan.links.filter((l) => linkAt(m.root, l.path) !== l.to);
  for (const l of links) checkFree(m.root, l.path);
  writeRecord(m.root, recordOf(plan, m, old));
  const undo = new CleanupStack();
  try {
    for (const f of changed) {
      m.signal?.throwIfAborted();
      writePlanned(f, m, undo);
    }
    for (const l of links) {
      makeDirectory(path.dirname(path.join(m.root, l.path)));
      symlinkSync(l.to, path.join(m.root, l.path));
      undo.add(l.path, () => rmSync(path.join(m.root, l.path), { force: true }));
      m.say(`link    ${l.path} to ${l.to}`);
    }
    for (const t of plan.targets) await check(t, before.get(t), m);
  } catch (e) {
    await undo.run();
    if (old === undefined) undoRecord(m);
    else writeRecord(m.root, old);
    throw e;
  }
  undo.release();
}

/** A first installation that failed leaves no record, and none of its directories. */
function undoRecord(m: KataMachine): void {
  const dirs = readRecord(m.root)?.dirs ?? [];
  removeRecord(m.root);
  removeDirs(m.root, dirs);
}

function differs(root: string, f: PlannedFile): boolean {
  const at = path.join(root, f.path);
  const found = readIfThere(at);
  if (found === undefined) return true;
  if (!isOurs(found))
    throw new HyperturtleError('HT_EXISTS', `${f.path} is there and not by 'kata install': move it away`);
  return found.toString('utf8') !== f.text || (statSync(at).mode & 0o777) !== f.mode;
}

const isOurs = (content: Buffer): boolean => content.subarray(0, HEAD_BYTES).includes(MARK);

function linkAt(root: string, at: string): string | undefined {
  try {
    return readlinkSync(path.join(root, at));
  } catch {
    return undefined;
  }
}

function checkFree(root: string, at: string): void {
  if (lstatSync(path.join(root, at), { throwIfNoEntry: false }) !== undefined)
    throw new HyperturtleError('HT_EXISTS', `${at} is there and not by 'kata install': move it away`);
}

/** What it says stays true when this process is killed at any time: it may name what is not there yet. */
function recordOf(plan: KataPlan, m: KataMachine, old: KataRecord | undefined): KataRecord {
  const files = [...new Set([...(old?.files ?? []), ...plan.files.map((f) => f.path)])];
  const links = [
    ...(old?.links.filter((o) => !plan.links.some((l) => l.path === o.path)) ?? []),
    ...plan.links,
  ];
  const dirs = [RECORD, ...files, ...links.map((l) => l.path)].flatMap((f) => missingParents(m.root, f));
  return { schema: 1, version: m.version, files, links, dirs: [...new Set([...(old?.dirs ?? []), ...dirs])] };
}

function missingParents(root: string, file: string): string[] {
  const found: string[] = [];
  for (let at = path.dirname(file); at !== '/' && !existsSync(path.join(root, at)); at = path.dirname(at))
    found.unshift(at);
  return found;
}

/** Kata reads every file of config.d, so what is half written waits a directory above. */
const stagingOf = (file: string): string =>
  path.basename(path.dirname(file)) === 'config.d'
    ? path.join(path.dirname(path.dirname(file)), `.${path.basename(file)}.hyperturtle-new`)
    : `${file}.new`;

function writePlanned(f: PlannedFile, m: KataMachine, undo: CleanupStack): void {
  const file = path.join(m.root, f.path);
  const before = readIfThere(file);
  const o = { mode: f.mode, staging: stagingOf(file), sync: true };
  try {
    replaceFile(file, f.text, o);
    chmodSync(file, f.mode); // whatever the umask
  } catch (e) {
    const errno = errnoCode(isHyperturtleError(e) ? e.cause : e);
    if (errno !== 'EACCES' && errno !== 'EPERM') throw e;
    throw new HyperturtleError('HT_USAGE', `${messageOf(e)} (installing is for root)`, { cause: e });
  }
  undo.add(f.path, () => {
    if (before === undefined) rmSync(file, { force: true });
    else replaceFile(file, before, o);
  });
  m.say(`${before === undefined ? 'write  ' : 'replace'} ${f.path}`);
}

/** Kata reads it as we do, and as its own program does where that is there. */
async function check(t: Target, refusedBefore: string | undefined, m: KataMachine): Promise<void> {
  const file = path.join(m.root, t.config);
  const text = readIfThere(file)?.toString('utf8') ?? '';
  const read = settingsOf({ file: t.config, text }, dropInsOf(m.root, t.config));
  const starts = isForUs(read) ? realProgram(read) : undefined;
  if (starts !== t.launcher) {
    const last = dropInsOf(m.root, t.config).at(-1);
    throw new HyperturtleError(
      'HT_CONFIG',
      `${t.config}: Kata would start ${starts ?? 'nothing'}: a later drop-in sets another path (${last?.file ?? 'none'}): remove it there`,
    );
  }
  if (refusedBefore !== undefined) return m.say(`not checked by kata-runtime: ${refusedBefore}`);
  const refused = await refusal(t, { config: t.config, expected: t.launcher }, m);
  if (refused !== undefined)
    throw new HyperturtleError('HT_CONFIG', `${t.config}: kata-runtime does not take it: ${refused}`);
}

/**
 * Why Kata's own reader does not take a configuration, or takes another program from it than expected; undefined: all is
 * well, or there is no such reader: only Go's runtime has one.
 */
async function refusal(
  t: Target,
  { config, expected }: { config: string; expected?: string },
  m: KataMachine,
): Promise<string | undefined> {
  const program = t.settings.flavor === 'go' ? kataRuntime(m.root, t.source) : undefined;
  if (program === undefined) return undefined;
  const args = ['--config', path.join(m.root, config), 'env', '--json'];
  try {
    const { stdout } = await exec(program, args, { timeoutMs: ENV_MS, signal: m.signal });
    const said = JSON.parse(stdout.toString('utf8')) as { Hypervisor?: { Path?: string } };
    const starts = said.Hypervisor?.Path;
    // it has no word for a jailer
    if (expected === undefined || t.settings.jailer !== '' || starts === expected) return undefined;
    return `it says that it would start ${starts ?? 'nothing'}`;
  } catch (e) {
    m.signal?.throwIfAborted();
    return messageOf(e)
      .replace(/\s*\n\s*/g, '; ')
      .slice(0, 300);
  }
}

/** Removes what the record has, and drop-ins that are there without one. Gives what was left, and why. */
export function uninstall(kata: FoundKata, m: KataMachine, dryRun: boolean): string[] {
  const record = readRecord(m.root);
  const found = kata.configurations
    .filter((c) => c.ours !== undefined)
    .map((c) => `${path.dirname(c.file)}/config.d/${DROP_IN_NAME}`);
  const files = [...new Set([...(record?.files ?? []), ...found])];
  checkUnused(m.root, files);
  const left: string[] = [];
  for (const l of [...(record?.links ?? [])].reverse()) {
    if (linkAt(m.root, l.path) !== l.to) continue;
    m.say(`remove  ${l.path}`);
    if (!dryRun) remove(path.join(m.root, l.path));
  }
  for (const f of files.reverse()) {
    const file = path.join(m.root, f);
    if (!dryRun) rmSync(stagingOf(file), { force: true }); // of an installation that was killed
    const content = readIfThere(file);
    if (content === undefined) continue;
    if (!isOurs(content)) left.push(`${f}: not as 'kata install' wrote it`);
    else {
      m.say(`remove  ${f}`);
      if (!dryRun) remove(file);
    }
  }
  if (dryRun) return left;
  removeDirs(m.root, record?.dirs ?? []);
  removeRecord(m.root);
  removeDirs(m.root, record?.dirs ?? []); // the record's own
  return left;
}

function remove(file: string): void {
  try {
    rmSync(file, { force: true });
  } catch (e) {
    throw fileError(e, 'cannot be removed', file);
  }
}

/** A container runtime that names a copy would start no pod without it. */
function checkUnused(root: string, files: readonly string[]): void {
  for (const [config, where] of namedConfigurations(root))
    if (files.includes(config) && !files.includes(where))
      throw new HyperturtleError(
        'HT_IN_USE',
        `${where} names ${config}, which would be removed: have it name Kata's own configuration first`,
      );
}

function removeDirs(root: string, dirs: readonly string[]): void {
  for (const dir of [...dirs].reverse()) {
    try {
      rmdirSync(path.join(root, dir));
    } catch (e) {
      if (!['ENOENT', 'ENOTEMPTY', 'EEXIST', 'EBUSY'].includes(errnoCode(e) ?? ''))
        throw fileError(e, 'cannot be removed', dir);
    }
  }
}
