/** Carries out a plan of installation; what was done is undone in reverse when a step fails. */
import { existsSync } from 'node:fs';
import { chmod, readFile, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { errnoCode, HyperturtleError, isHyperturtleError, messageOf } from '../core/errors.ts';
import { exec } from '../core/exec.ts';
import { makeDirectory } from '../core/files.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { dkmsFailure } from './dkms.ts';
import type { MachineFacts, Plan, Step } from './plan.ts';

/** A module for one kernel compiles in well under a minute; dkms may make an initramfs after it. */
const COMMAND_MS = 600_000;

export async function machineFacts(root: string, version: string): Promise<MachineFacts> {
  const kernel = os.release();
  // a machine in a directory has nothing that runs
  if (root !== '/') return { root, systemd: false, udev: false, dkms: undefined, kernel };
  return {
    root,
    systemd: existsSync('/run/systemd/system'),
    udev: existsSync('/run/udev/control'),
    dkms: await dkmsState(version, kernel),
    kernel,
  };
}

async function dkmsState(version: string, kernel: string): Promise<MachineFacts['dkms']> {
  try {
    const r = await exec('dkms', ['status', `hyperturtle/${version}`], { timeoutMs: 30_000 });
    const lines = r.stdout.toString('utf8').split('\n');
    const added = lines.some((l) => l.startsWith(`hyperturtle/${version}`));
    return { added, built: lines.some((l) => l.includes(kernel) && /: installed/.test(l)) };
  } catch (e) {
    if (isHyperturtleError(e, 'HT_NOT_FOUND')) return undefined;
    if (isHyperturtleError(e, 'HT_COMMAND_FAILED')) return { added: false, built: false };
    throw e;
  }
}

/** Throws what the failing step threw, after all steps before it were undone. */
export async function runPlan(
  plan: Plan,
  root: string,
  options: { say: (step: Step) => void; signal?: AbortSignal },
): Promise<void> {
  const undo = new CleanupStack();
  try {
    for (const step of plan.steps) {
      options.signal?.throwIfAborted();
      options.say(step);
      await runStep(step, root, undo, options.signal);
    }
  } catch (e) {
    await undo.run();
    throw e;
  }
  undo.release();
}

async function runStep(
  step: Step,
  root: string,
  undo: CleanupStack,
  signal: AbortSignal | undefined,
): Promise<void> {
  switch (step.kind) {
    case 'write':
      return writeStep(step, root, undo);
    case 'remove': {
      const file = path.join(root, step.path);
      const before = await readFile(file);
      undo.add(step.path, async () => {
        makeDirectory(path.dirname(file));
        await writeFile(file, before);
      });
      await rm(file);
      return removeEmptyParents(root, path.dirname(step.path));
    }
    case 'run':
      try {
        await exec(step.argv[0] ?? '', step.argv.slice(1), { timeoutMs: COMMAND_MS, signal });
      } catch (e) {
        if (step.mayFail && !signal?.aborted) return;
        const why = step.dkms ? await dkmsFailure(e, step.dkms.kernel, step.dkms.log) : e;
        // what was added and not built is there nonetheless
        if (step.undo) await undoRun(step.undo).catch(() => {}); // the first error is the one to tell
        throw why;
      }
      if (step.undo) {
        const back = step.undo;
        undo.add(back.join(' '), () => undoRun(back));
      }
  }
}

async function undoRun([program = '', ...args]: readonly string[]): Promise<void> {
  await exec(program, args, { timeoutMs: COMMAND_MS });
}

async function writeStep(
  step: Extract<Step, { kind: 'write' }>,
  root: string,
  undo: CleanupStack,
): Promise<void> {
  const file = path.join(root, step.path);
  try {
    const before = step.before === 'differs' ? await readFile(file) : undefined;
    makeDirectory(path.dirname(file));
    // whole or not at all, whatever ends us
    await writeFile(`${file}.hyperturtle-new`, step.content);
    await chmod(`${file}.hyperturtle-new`, step.mode);
    await rename(`${file}.hyperturtle-new`, file);
    undo.add(step.path, async () => {
      if (before !== undefined) return writeFile(file, before);
      await rm(file, { force: true });
      await removeEmptyParents(root, path.dirname(step.path));
    });
  } catch (e) {
    await rm(`${file}.hyperturtle-new`, { force: true }).catch(() => {}); // the first error is the one to tell
    const errno = errnoCode(e instanceof HyperturtleError ? e.cause : e);
    if (errno === 'EACCES' || errno === 'EROFS' || errno === 'EPERM')
      throw new HyperturtleError('HT_USAGE', `${file}: ${messageOf(e)}: run it as root, or with --root DIR`, {
        cause: e,
      });
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
