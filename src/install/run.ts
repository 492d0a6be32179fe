/** Carries out a plan of installation; what was done is undone in reverse when a step fails. */
import { existsSync } from 'node:fs';
import { access, chmod, constants, readFile, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { errnoCode, HyperturtleError, isHyperturtleError, messageOf } from '../core/errors.ts';
import { exec } from '../core/exec.ts';
import { makeDirectory } from '../core/files.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { dkmsFailure, hadNothing, parseDkmsStatus } from './dkms.ts';
import type { MachineFacts } from './plan.ts';
import type { Command, Plan, RunStep, Step } from './steps.ts';
import { stateDir } from './record.ts';
import { withFileLock } from '../core/file-lock.ts';

/** A module for one kernel compiles in well under a minute; dkms may make an initramfs after it. */
const COMMAND_MS = 600_000;

export async function machineFacts(root: string): Promise<MachineFacts> {
  const kernel = os.release();
  // a machine in a directory has nothing that runs
  if (root !== '/') return { root, systemd: false, udev: false, dkms: undefined, kernel };
  return {
    root,
    systemd: existsSync('/run/systemd/system'),
    udev: existsSync('/run/udev/control'),
    dkms: await dkmsEntries(),
    kernel,
  };
}

/** What dkms has of all our versions; undefined: there is no dkms. */
export async function dkmsEntries(): Promise<MachineFacts['dkms']> {
  try {
    const r = await exec('dkms', ['status', 'hyperturtle'], { timeoutMs: 30_000 });
    return parseDkmsStatus(r.stdout.toString('utf8'));
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND')) return undefined;
    if (isHyperturtleError(e, 'HT_COMMAND_FAILED')) return [];
    throw e;
  }
}

/**
 * One installation at a time: two would undo each other's files, and both roles share the modules' sources. Throws HT_USAGE
 * where only root may write, HT_BUSY when another takes too long.
 */
export async function alone<T>(
  root: string,
  o: { signal?: AbortSignal; onWait?: (holder: string) => void },
  body: () => Promise<T>,
): Promise<T> {
  const dir = stateDir(root);
  try {
    makeDirectory(dir, 0o700);
    await access(dir, constants.W_OK);
  } catch (e) {
    throw asRoot(e, dir);
  }
  return withFileLock(path.join(dir, 'install.lock'), { ...o, timeoutMs: COMMAND_MS }, body);
}

export interface RunOptions {
  say: (step: Step) => void;
  /** Told of a step that may fail, and has. */
  warn?: (line: string) => void;
  signal?: AbortSignal;
}

/** Throws what the failing step threw, after all steps before it were undone; with what could not be undone, if anything. */
export async function runPlan(plan: Plan, root: string, options: RunOptions): Promise<void> {
  const undo = new CleanupStack();
  try {
    for (const step of plan.steps) {
      options.signal?.throwIfAborted();
      options.say(step);
      await runStep(step, root, undo, options);
    }
  } catch (e) {
    try {
      await undo.run();
    } catch (left) {
      throw new HyperturtleError(
        isHyperturtleError(e) ? e.code : 'HT_COMMAND_FAILED',
        `${messageOf(e)}\nnot all was undone: ${messageOf(left)}`,
        { cause: e, detail: { left: true } },
      );
    }
    throw e;
  }
  undo.release();
}

async function runStep(step: Step, root: string, undo: CleanupStack, options: RunOptions): Promise<void> {
  switch (step.kind) {
    case 'write':
      return writeStep(step, root, undo);
    case 'remove': {
      const file = path.join(root, step.path);
      const before = await keepFile(file);
      undo.add(step.path, () => putFile(file, before));
      await rm(file);
      return removeEmptyParents(root, path.dirname(step.path));
    }
    case 'run':
      return commandStep(step, undo, options);
  }
}

async function commandStep(step: RunStep, undo: CleanupStack, options: RunOptions): Promise<void> {
  // a command that fails half-way has done something nonetheless
  for (const back of (step.undo ?? []).toReversed()) undo.add(back.join(' '), () => undoRun(back));
  try {
    await run(step.argv, options.signal);
  } catch (e) {
    if (!step.mayFail || options.signal?.aborted) throw step.dkms ? await dkmsFailure(e, step.dkms) : e;
    if (step.mayFail !== true) options.warn?.(`${step.mayFail.told}: ${lastLine(e)}`);
  }
}

async function run([program = '', ...args]: Command, signal?: AbortSignal): Promise<void> {
  await exec(program, args, { timeoutMs: COMMAND_MS, signal });
}

async function undoRun(command: Command): Promise<void> {
  try {
    await run(command);
  } catch (e) {
    if (!hadNothing(command, e)) throw e;
  }
}

const lastLine = (e: unknown): string => messageOf(e).trim().split('\n').at(-1) ?? '';

async function writeStep(
  step: Extract<Step, { kind: 'write' }>,
  root: string,
  undo: CleanupStack,
): Promise<void> {
  const file = path.join(root, step.path);
  try {
    const before = step.before === 'differs' ? await keepFile(file) : undefined;
    await putFile(file, step);
    undo.add(step.path, async () => {
      if (before !== undefined) return putFile(file, before);
      await rm(file, { force: true });
      await removeEmptyParents(root, path.dirname(step.path));
    });
  } catch (e) {
    throw asRoot(e, file);
  }
}

/** What only root may write is a mistake in the command. */
function asRoot(e: unknown, file: string): unknown {
  const errno = errnoCode(e instanceof HyperturtleError ? e.cause : e);
  if (errno !== 'EACCES' && errno !== 'EROFS' && errno !== 'EPERM') return e;
  return new HyperturtleError('HT_USAGE', `${file}: ${messageOf(e)}: run it as root, or with --root DIR`, {
    cause: e,
  });
}

interface FileState {
  content: Buffer;
  mode: number;
}

async function keepFile(file: string): Promise<FileState> {
  return { content: await readFile(file), mode: (await stat(file)).mode & 0o7777 };
}

/** Whole or not at all, whatever ends us: also of a full disk on the way back. */
async function putFile(file: string, { content, mode }: FileState): Promise<void> {
  const fresh = `${file}.hyperturtle-new`;
  try {
    makeDirectory(path.dirname(file));
    await writeFile(fresh, content);
    await chmod(fresh, mode);
    await rename(fresh, file);
  } catch (e) {
    await rm(fresh, { force: true }).catch(() => {}); // the first error is the one to tell
    throw e;
  }
}

/** Directories that only we had: those named after us, and none above. */
async function removeEmptyParents(root: string, dir: string): Promise<void> {
  for (let at = dir; at.includes('hyperturtle'); at = path.dirname(at)) {
    try {
      await rmdir(path.join(root, at));
    } catch (e) {
      if (errnoCode(e) === 'ENOTEMPTY' || errnoCode(e) === 'ENOENT') return;
      throw e;
    }
  }
}
