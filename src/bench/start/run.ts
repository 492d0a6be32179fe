/**
 * Time from the start of a nested guest to the open port and the first right answer of its service, image by image,
 * with stock hypervisors and with the hyperupcall, taking turns. The guests are started by `hyperturtle run`, as users
 * start them; each step comes over a console port that reaches this process without any of our programs in between, so
 * nothing polls while it is measured.
 */
import { z } from 'zod';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import { kernelArgs } from '../../lab/init-scripts.ts';
import { aboutImage } from '../../lab/l2-image.ts';
import type { Connection } from '../../lab/channel.ts';
import type { Lab } from '../../lab/lab.ts';
import { run, runScript } from '../../lab/levels.ts';
import type { Job } from '../../lab/levels.ts';
import { IN_GUEST } from '../../lab/artifacts.ts';
import { PORT } from '../../lab/machine.ts';
import { CLI, guestStatus } from '../../testbed/acceleration.ts';
import type { HookCounts } from '../../testbed/acceleration.ts';
import { environmentOf } from '../shared/environment.ts';
import { KvmCounters, countersBetween } from '../../testbed/kvm-counters.ts';
import { reserveHugePages, setHugePages } from '../../testbed/huge-pages.ts';
import type { HugePages } from '../../testbed/huge-pages.ts';
import { L1Exits, exitsBetween } from '../../testbed/l1-exits.ts';
import { ManagedAcceleration } from '../../testbed/managed.ts';
import type { RamKind } from '../../guest/vmm/arguments.ts';
import { roundTooLate } from '../first-touch/run.ts';
import { subtractCounts } from '../../core/counts.ts';
import type { StartResult, StartSample, StartVariant } from './schema.ts';
import { SNAPSHOT_IMAGE, imagesOf, summarizeStarts } from './summary.ts';
import { L2_TICK_ARGUMENTS } from '../../testbed/l2-spec.ts';
import { setOwn } from '../../core/own.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export interface StartSpec {
  images: readonly string[];
  variants: readonly StartVariant[];
  rounds: number;
  arenaMib: number;
  /** Also count in L1 what exits that enter it are about. Times are not to be compared with those of other runs then. */
  explain: boolean;
  /** Also count exactly what groups took in vain. */
  exact: boolean;
  /** Begin no round after the first that would not be over by then. */
  budgetMs?: number | undefined;
}

export interface StartOptions {
  version: string;
  progress: Progress;
  signal?: AbortSignal | undefined;
}

/** Vanilla, on an emulated CPU that others use as well; loading a snapshot takes longer. */
const ANSWER_MS = 600_000;
const SNAPSHOT_ANSWER_MS = 2_400_000;
const EVENT_PORT = 0;

const eventSchema = lazy(() => z.object({ run: z.string(), event: z.string(), ms: z.number().optional() }));

/** The lab must have these images. It is left as it was found. Interrupted, it gives what it has by then. */
export async function runStart(lab: Lab, spec: StartSpec, o: StartOptions): Promise<StartResult> {
  const { signal } = o;
  const startedAt = new Date();
  const append = `${kernelArgs(2)} ${L2_TICK_ARGUMENTS}`;
  await using undo = new CleanupStack();
  const counters = await KvmCounters.start(lab.l0, signal);
  undo.add('counters', () => counters.stop());
  const acceleration = await ManagedAcceleration.on(lab, { arenaMib: spec.arenaMib, signal });
  undo.add('acceleration', () => acceleration.off());
  const l1Exits = spec.explain ? await L1Exits.start(lab.l1, signal) : undefined;
  if (l1Exits !== undefined) undo.add("counters of L1's KVM", () => l1Exits.stop());
  const guest = await guestStatus(lab.l1, signal);
  const context = { lab, counters, acceleration, append, l1Exits, signal };
  const { samples, rounds } = await takeTurns(context, spec, startedAt, o);
  const exact = spec.exact && !signal?.aborted ? await exactStarts(context, spec.images, o.progress) : [];
  const { l1 } = lab.environment();
  return {
    schema: 1,
    benchmark: 'start',
    environment: await environmentOf(lab, o.version, startedAt),
    parameters: {
      images: imagesOf(samples),
      rounds,
      l1MemoryMib: l1.memMib,
      l1Cpus: l1.cpus,
      groupDefault: guest.group_max,
      poolHigh: guest.pool_high,
      l2KernelArguments: append,
    },
    samples,
    exact,
    summary: summarizeStarts(samples, exact),
  };
}

/** Turn after turn, until another round would take too long, or it is interrupted. */
async function takeTurns(
  c: Context,
  spec: StartSpec,
  startedAt: Date,
  { progress, signal }: StartOptions,
): Promise<{ samples: StartSample[]; rounds: number }> {
  const samples: StartSample[] = [];
  const turns = startTurns(spec);
  const perRound = turns.length / spec.rounds;
  for (const [i, turn] of turns.entries()) {
    if (roundTooLate(Date.now() - startedAt.getTime(), i, perRound, spec.budgetMs)) {
      progress.note(`  ${turn.round} of ${spec.rounds} rounds: another would take too long here`);
      return { samples, rounds: turn.round };
    }
    const step = progress.step(`[${i + 1}/${turns.length}] ${turn.image}, ${turn.variant}`);
    try {
      const s = await oneStart(c, turn);
      samples.push(s);
      step.done(`answered after ${(s.answeredMs / 1000).toFixed(1)} s`);
    } catch (e) {
      step.fail();
      if (turn.variant === 'hugetlb' && isHyperturtleError(e, 'HT_NO_MEMORY')) {
        progress.note(`  left out: ${e.message}`);
        continue;
      }
      if (!signal?.aborted || samples.length === 0) throw e;
      progress.note(`  interrupted: what was measured until now is the result`);
      break;
    }
  }
  return { samples, rounds: spec.rounds };
}

/** Slower by an exit for each page that is used, so apart from what is timed. */
async function exactStarts(
  c: Context,
  images: readonly string[],
  progress: Progress,
): Promise<StartResult['exact']> {
  const found: StartResult['exact'] = [];
  await run(c.lab.l1, [CLI, 'guest', 'set', '--exact'], { signal: c.signal });
  try {
    for (const image of images) {
      const step = progress.step(`${image}: pages that groups took in vain`);
      const { pages } = await oneStart(c, { image, variant: 'accelerated', round: EXACT_ROUND });
      if (pages === null) throw new Error('no pages of an accelerated start');
      found.push({ image, ...pages });
      step.done(`${pages.unused} of ${pages.held}`);
    }
    return found;
  } catch (e) {
    if (!c.signal?.aborted) throw e;
    return found;
  } finally {
    await run(c.lab.l1, [CLI, 'guest', 'set', '--no-exact']);
  }
}

/** A number that no round has. */
const EXACT_ROUND = 1000;

export interface StartTurn {
  image: string;
  variant: StartVariant;
  round: number;
}

/** All variants of an image one after the other, so that they meet the same machine; who is first changes by round. */
export function startTurns(spec: Pick<StartSpec, 'images' | 'rounds' | 'variants'>): StartTurn[] {
  return Array.from({ length: spec.rounds }, (_, round) =>
    spec.images.flatMap((image) => {
      const order = round % 2 === 0 ? spec.variants : [...spec.variants].reverse();
      return order.map((variant) => ({ image, variant, round }));
    }),
  ).flat();
}

interface Context {
  lab: Lab;
  counters: KvmCounters;
  acceleration: ManagedAcceleration;
  append: string;
  /** Where exits are explained. */
  l1Exits: L1Exits | undefined;
  signal: AbortSignal | undefined;
}

const RAM: Readonly<Record<StartVariant, RamKind>> = {
  vanilla: 'tmpfs',
  anonymous: 'anonymous',
  thp: 'anonymous',
  hugetlb: 'hugetlbfs',
  accelerated: 'turtlefs',
};

/** What L1's kernel gives for anonymous memory; where nothing is said, what it is set to. */
const HUGE_PAGES: Partial<Record<StartVariant, HugePages>> = { anonymous: 'never', thp: 'always' };

/** What a variant needs of L1's kernel; the stack takes it back. Throws HT_NO_MEMORY. */
async function prepare(c: Context, turn: StartTurn, undo: CleanupStack): Promise<void> {
  const { lab, signal } = c;
  await c.acceleration.setLinked(turn.variant === 'accelerated', signal);
  const hugePages = HUGE_PAGES[turn.variant];
  if (hugePages !== undefined) undo.add('huge pages', await setHugePages(lab.l1, hugePages, signal));
  if (turn.variant === 'hugetlb') {
    const pages = Math.ceil(aboutImage(turn.image).memMib / 2);
    undo.add('pages set aside', await reserveHugePages(lab.l1, pages, signal));
  }
  // from L1's page cache for all: what is compared is memory, not the lab's disks
  await runScript(lab.l1, `cat ${IN_GUEST.images}/${turn.image}.erofs >/dev/null`, {
    timeoutMs: 600_000,
    signal,
  });
}

async function oneStart(c: Context, turn: StartTurn): Promise<StartSample> {
  const { lab, signal } = c;
  const accelerated = turn.variant === 'accelerated';
  await using undo = new CleanupStack();
  await prepare(c, turn, undo);
  const name = `start-${turn.image}-${turn.variant}-${turn.round}`;
  return await lab.l2Channel(EVENT_PORT).use(
    async (connection) => {
      const hookBefore = accelerated ? await c.acceleration.hookCounts(signal) : undefined;
      const l1Before = await c.l1Exits?.read(signal);
      const before = await c.counters.read(signal);
      const cpuSeconds = lab.emulatorCpuSeconds();
      const job = await lab.l1.spawn(
        [
          ...[CLI, 'run', turn.image, '--name', name, '--ram', RAM[turn.variant]],
          ...['--append', c.append, '--service', '--events', `/dev/virtio-ports/${PORT.l2(EVENT_PORT)}`],
        ],
        { signal },
      );
      try {
        const at = await stepsOf(connection, name, job, turn.image, signal);
        const emulatorCpuSeconds = lab.emulatorCpuSeconds() - cpuSeconds;
        const counters = countersBetween(before, await c.counters.read(signal));
        const l1After = await c.l1Exits?.read(signal);
        const hook = accelerated ? await c.acceleration.hookCounts(signal) : undefined;
        const pages = accelerated ? await c.acceleration.guest.l2Pages(signal) : null;
        return {
          ...turn,
          pages,
          l2MemoryMib: aboutImage(turn.image).memMib,
          upMs: at.up,
          openMs: at.open,
          answeredMs: at.answered,
          counters,
          ...answersOf(hookBefore, hook),
          emulatorCpuSeconds,
          ...(l1Before === undefined || l1After === undefined
            ? {}
            : { explained: exitsBetween(l1Before, l1After) }),
        };
      } finally {
        await job.kill('TERM');
        await job.wait({ timeoutMs: 120_000 });
      }
    },
    { timeoutMs: 10_000, signal },
  );
}

function answersOf(
  before: HookCounts | undefined,
  after: HookCounts | undefined,
): Pick<StartSample, 'fallbacks' | 'handled' | 'entries'> {
  if (before === undefined || after === undefined) return { fallbacks: null, handled: null, entries: null };
  return {
    fallbacks: subtractCounts(after.reasons, before.reasons),
    handled: after.handled - before.handled,
    entries: after.entries - before.entries,
  };
}

/** Milliseconds of each step since the guest's first instruction, when the last one has come. */
async function stepsOf(
  connection: Connection,
  run: string,
  job: Job,
  image: string,
  signal: AbortSignal | undefined,
): Promise<{ up: number; open: number; answered: number }> {
  const at: Record<string, number> = {};
  const end = performance.now() + (image === SNAPSHOT_IMAGE ? SNAPSHOT_ANSWER_MS : ANSWER_MS);
  while (at['answered'] === undefined) {
    let line: string;
    try {
      line = String(await connection.readLine({ timeoutMs: end - performance.now(), signal }));
    } catch (e) {
      throw new HyperturtleError(
        'HT_BOOT_FAILED',
        `${run}: no answer of its service; the launcher: ${(await job.output()).trim().slice(-1000)}`,
        { cause: e },
      );
    }
    const event = parseEvent(line);
    if (event?.run !== run) continue; // of one before, or of a console
    if (event.event === 'exited' || event.event === 'error')
      throw new HyperturtleError(
        'HT_COMMAND_FAILED',
        `${run}: ended before its service answered: ${line}: ${(await job.output()).trim().slice(-1000)}`,
      );
    if (event.ms !== undefined) setOwn(at, event.event, event.ms);
  }
  return { up: at['up'] ?? 0, open: at['open'] ?? 0, answered: at['answered'] };
}

function parseEvent(line: string): Output<typeof eventSchema> | undefined {
  try {
    return eventSchema().safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}
