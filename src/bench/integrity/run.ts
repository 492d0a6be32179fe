/**
 * Looks for memory that changes under its owner, while pages are taken away and given back as fast as it goes.
 *
 * L2 fills all the memory that it can have with a pattern and checks it over and over (region A). A range that its
 * kernel leaves alone (region B) is the balloon: a process in L2 (by /dev/mem) and one in L1 (by the turtlefs file
 * behind L2's RAM) both read and write it, and the one in L1 punches holes into it. A word there may be 0 or what
 * one of the two wrote for that very page. L1 checks a pattern in memory of its own as well. A frame that is freed too early,
 * or given to two owners, shows as a foreign word in A, in B or in L1's own memory.
 */
import { HyperturtleError } from '../../core/errors.ts';
import type { Progress } from '../../core/progress.ts';
import { TURTLEFS_DIR } from '../../guest/vmm/arguments.ts';
import type { Lab } from '../../lab/lab.ts';
import type { Job } from '../../lab/levels.ts';
import { z } from 'zod';
import { framesOut } from '../../kernel/guest.ts';
import { Acceleration } from '../../testbed/acceleration.ts';
import { withL2 } from '../../testbed/l2-session.ts';
import { troubles } from '../../testbed/leftovers.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export interface IntegritySpec {
  /** Pages to race at least: punched out by L1. Runs on until then, and until pages of their own were checked. */
  pages: number;
  /** Size of region B. */
  sharedMib: number;
  /** Size of region A, and of what L1 checks of its own. */
  ownMib: number;
  /** Pages in one hole. */
  hole: number;
  /** One pass; passes are repeated until `pages` is reached. */
  passSeconds: number;
  arenaMib: number;
  /** 2 MiB frames that L1 keeps; every other hole then begins at a multiple of its size. */
  largeFrames?: number;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

const patternSchema = lazy(() =>
  z.object({
    rounds: z.number(),
    checked: z.number(),
    written: z.number(),
    punched: z.number(),
    readBackOwn: z.number(),
    zeroed: z.number(),
    mismatches: z.number(),
  }),
);
type PatternResult = Output<typeof patternSchema>;

export interface IntegrityReport {
  /** Pages taken away by holes while both sides used them. */
  racedPages: number;
  /** Pages read and written in region B by both sides. */
  sharedTouches: number;
  /** Pages of L2's and L1's own memory that were checked. */
  ownChecks: number;
  mismatches: number;
  /** The first of them, in words: page, word, what was found and what was expected. */
  complaints: string[];
  passes: number;
  framesAllocated: number;
  framesFreed: number;
  framesLeft: number;
  kernelTroubles: string[];
  durationSeconds: number;
  problems: string[];
}

/** Linux, a shell, and what is not for touching at the end of memory. */
const L2_BASE_MIB = 96;
/** The end of memory: firmware works and leaves its tables there, and the initramfs. */
const END_MIB = 24;
const RAM_FILE = 'integrity.ram';
const MAX_PASSES = 60;

export async function runIntegrity(lab: Lab, spec: IntegritySpec): Promise<IntegrityReport> {
  const { progress, signal } = spec;
  const t0 = performance.now();
  const { largeFrames } = spec;
  const acceleration = await Acceleration.on(lab, {
    arenaMib: spec.arenaMib,
    signal,
    ...(largeFrames === undefined ? {} : { largeFrames }),
  });
  try {
    const memMib = L2_BASE_MIB + spec.ownMib + spec.sharedMib;
    const address = `0x${((memMib - END_MIB - spec.sharedMib) * (1 << 20)).toString(16)}`;
    const booting = progress.step('boot L2');
    const results = await withL2(
      lab,
      {
        name: 'integrity',
        ram: 'turtlefs',
        ramFile: RAM_FILE,
        memMib,
        append: `console=ttyS0 memmap=${spec.sharedMib}M$${address}`,
        machine: 'pc',
        port: 0,
      },
      ({ shell }) => {
        booting.done();
        return raceUntilEnough(lab, spec, address, shell.run.bind(shell));
      },
      { signal },
    );
    const guest = await acceleration.guestStatus(signal);
    const all = [...results.shared, ...results.own];
    const sum = (of: (r: PatternResult) => number, list: PatternResult[]): number =>
      list.reduce((n, r) => n + of(r), 0);
    const report = {
      racedPages: punchedOf(results.shared),
      sharedTouches: sum((r) => r.checked, results.shared),
      ownChecks: sum((r) => r.checked, results.own),
      mismatches: sum((r) => r.mismatches, all),
      complaints: results.complaints.slice(0, 20),
      passes: results.shared.length / 2,
      framesAllocated: guest.frames_allocated,
      framesFreed: guest.frames_freed,
      framesLeft: framesOut(guest),
      kernelTroubles: await troubles(lab, signal),
      durationSeconds: Math.round((performance.now() - t0) / 1000),
    };
    return { ...report, problems: integrityProblems(report, spec) };
  } finally {
    await acceleration.off();
  }
}

/** Passes, until as many pages as asked for were raced and some of their own checked: a short one beside other work may check none. */
async function raceUntilEnough(lab: Lab, spec: IntegritySpec, address: string, run: RunInL2): Promise<Pass> {
  const step = spec.progress.step(`race ${spec.pages.toLocaleString('en-US')} pages`);
  const done: Pass = { shared: [], own: [], complaints: [] };
  const enough = (): boolean => punchedOf(done.shared) >= spec.pages && done.own.some((r) => r.checked > 0);
  while (!enough() && done.shared.length / 2 < MAX_PASSES) {
    const pass = await racePass(lab, spec, address, run);
    done.shared.push(...pass.shared);
    done.own.push(...pass.own);
    done.complaints.push(...pass.complaints);
    step.update(`${punchedOf(done.shared)} so far`);
  }
  step.done();
  return done;
}

function punchedOf(results: readonly PatternResult[]): number {
  return results.reduce((n, r) => n + r.punched, 0);
}

export function integrityProblems(
  r: Omit<IntegrityReport, 'problems'>,
  spec: Pick<IntegritySpec, 'pages'>,
): string[] {
  const problems: string[] = [];
  if (r.mismatches > 0) problems.push(`${r.mismatches} pages changed under their owner`);
  if (r.racedPages < spec.pages) problems.push(`only ${r.racedPages} of ${spec.pages} pages were raced`);
  if (r.ownChecks === 0) problems.push('no page of its own was checked');
  // a frame may wait as a spare of the one CPU that lost a race
  if (r.framesLeft > 8) problems.push(`${r.framesLeft} frames were not given back`);
  if (r.kernelTroubles.length > 0) problems.push(`${r.kernelTroubles.length} complaints in kernel logs`);
  return problems;
}

interface Pass {
  shared: PatternResult[];
  own: PatternResult[];
  complaints: string[];
}

type RunInL2 = (
  command: string,
  options: { timeoutMs: number; signal?: AbortSignal | undefined },
) => Promise<{ status: number; lines: string[] }>;

/** Four processes for some seconds: two in L2, two in L1. */
async function racePass(lab: Lab, spec: IntegritySpec, address: string, run: RunInL2): Promise<Pass> {
  const { signal } = spec;
  const pattern = '/payload/l2/programs/pattern';
  const time = ['--seconds', String(spec.passSeconds)];
  const puncher = await lab.l1.spawn(
    [
      ...[pattern, 'share', `${TURTLEFS_DIR}/${RAM_FILE}`, address, String(spec.sharedMib), '1'],
      ...['--punch', String(spec.hole), ...(spec.largeFrames === undefined ? [] : ['--mixed']), ...time],
    ],
    { signal },
  );
  const own = await lab.l1.spawn([pattern, 'own', String(spec.ownMib), ...time], { signal });
  try {
    // results go to files: two processes that share a console would mix their lines
    const r = await run(
      `pattern own ${spec.ownMib} ${time.join(' ')} >/tmp/own 2>&1 & pattern share /dev/mem ${address} ${spec.sharedMib} 2 ${time.join(' ')} >/tmp/share 2>&1; wait; cat /tmp/own; echo; cat /tmp/share`,
      { timeoutMs: spec.passSeconds * 20_000 + 60_000, signal },
    );
    const [ownInL2, sharedInL2] = resultsOf(r.lines, 'L2');
    const waited = { timeoutMs: spec.passSeconds * 20_000 + 60_000, signal };
    await puncher.wait(waited);
    await own.wait(waited);
    const puncherLines = (await puncher.output()).split('\n');
    const ownLines = (await own.output()).split('\n');
    const [sharedInL1] = resultsOf(puncherLines, 'L1');
    const [ownInL1] = resultsOf(ownLines, 'L1');
    if (!ownInL2 || !sharedInL2 || !sharedInL1 || !ownInL1)
      throw new HyperturtleError('HT_COMMAND_FAILED', `pattern in L2 gave no result: ${r.lines.join(' | ')}`);
    const said = (where: string, lines: readonly string[]): string[] =>
      lines.filter((l) => l.startsWith('pattern:')).map((l) => `${where}: ${l}`);
    return {
      shared: [sharedInL2, sharedInL1],
      own: [ownInL2, ownInL1],
      complaints: [
        ...said('L2', r.lines),
        ...said('L1, shared', puncherLines),
        ...said('L1, its own', ownLines),
      ],
    };
  } finally {
    await stopJob(puncher);
    await stopJob(own);
  }
}

async function stopJob(job: Job): Promise<void> {
  if ((await job.status()) !== undefined) return;
  await job.kill('TERM');
  await job.wait({ timeoutMs: 60_000 });
}

/** The JSON lines among what `pattern` printed; its complaints about pages stay in `lines` for the error. */
function resultsOf(lines: readonly string[], where: string): PatternResult[] {
  const found = lines.filter((l) => l.startsWith('{')).map((l) => patternSchema().parse(JSON.parse(l)));
  if (found.length === 0)
    throw new HyperturtleError('HT_COMMAND_FAILED', `pattern in ${where}: ${lines.join(' | ').slice(-800)}`);
  return found;
}
