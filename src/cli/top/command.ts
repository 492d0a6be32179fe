/** `hyperturtle top`: hooks, pool and nested guests of this L1, live; plain lines when there is no terminal. */
import type { Command } from 'commander';
import type { AgentResult } from '../../guest/agent/schema.ts';
import type { HookStats, Result } from '../../wire/schema.ts';
import { figuresOf, reasonsToL1, shareOf } from '../../wire/figures.ts';
import { l1Options } from '../shared/agent-options.ts';
import { withAgent } from '../../client/session.ts';
import { fitted, wrapped } from '../shared/layout.ts';
import type { Column } from '../shared/layout.ts';
import type { AgentClient } from '../../client/session.ts';
import { profileTop, symbolOptions } from '../profile/command.ts';
import type { ProfileTopOptions } from '../profile/command.ts';
import { liveTable } from '../shared/screen.ts';
import { integer, printJson } from '../shared/values.ts';
import { own } from '../../core/own.ts';

interface TopOptions extends Omit<ProfileTopOptions, 'l2'> {
  l2?: string;
}

export interface TopSample {
  atMs: number;
  hooks: readonly HookStats[];
  /** Since when hooks of exits count; an older host does not say. */
  since?: string | undefined;
  status: AgentResult<'agent.status'>;
}

export function registerTop(program: Command): void {
  symbolOptions(l1Options(program.command('top')))
    .description('live table: what the hooks do, why faults are passed on, the pool, each nested guest')
    .option('--l2 <name>', 'the hottest functions of this nested guest instead, sampled by the host')
    .option('--hz <number>', 'with --l2: samples a second of each vCPU', integer('--hz', 1, 10_000), 99)
    .option('--rows <number>', 'with --l2: functions shown', integer('--rows', 1, 10_000), 30)
    .option('--interval-s <number>', 'seconds between updates', integer('--interval-s', 1, 3600), 1)
    .option('--count <number>', 'end after so many', integer('--count', 1, 2 ** 31))
    .addHelpText(
      'after',
      `
EVENTS    faults, exits, frames that a program saw since the last look; IN L0: answered by it, or dropped
THERE     faults whose entry L1 had made already (PRESENT): nothing was to be done, this machine did not run
TO L1     what this machine had to run for; frames that went on. TO L1% of the events is the figure to watch
WHY       reasons of those, most frequent first:
          POOL_EMPTY   raise the pool ('hyperturtle guest set --pool-low ... --pool-high ...')
          NO_TEMPLATE  normal for the first faults of a nested guest
          NO_TABLE     L1 makes a table page first: one fault in 512
          LOW_GPA      below 1 MiB, where firmware and tables are: left to L1
          NO_SLOT      not RAM on turtlefs: devices, firmware
          NO_L2, L2_OFF  a nested guest that is not registered ('hyperturtle doctor')
          NOT_OURS     an exit of a kind that the program does not answer
          OTHER        an exit of a kind that no program can answer
Without a terminal, or with --json, one block or line for each look. Ends at Ctrl-C.`,
    )
    .action(top);
}

async function top(options: TopOptions): Promise<void> {
  if (options.l2 !== undefined) return profileTop({ ...options, l2: options.l2 });
  const [{ sleep }, { isHyperturtleError }] = await Promise.all([
    import('../../core/wait.ts'),
    import('../../core/errors.ts'),
  ]);
  const screen = options.json ? undefined : liveTable();
  try {
    await withAgent(options, async (client) => {
      let before: TopSample | undefined;
      for (let n = 0; n < (options.count ?? Infinity); n++) {
        if (n > 0) await sleep(options.intervalS * 1000, client.signal);
        const now = await sample(client);
        if (screen)
          screen.show(topText(before, now, screen.columns === undefined ? undefined : screen.columns - 1));
        else printJson({ ...now, atMs: undefined, rates: rates(before, now) });
        before = now;
      }
    });
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
  } finally {
    screen?.end();
  }
}

/** What the host says may be missing while it is away: the rest is shown all the same. */
async function sample({ peer, signal, timeoutMs }: AgentClient): Promise<TopSample> {
  const status = await peer.request('agent.status', {}, { signal, timeoutMs });
  const { isHyperturtleError } = await import('../../core/errors.ts');
  const none = { hooks: [] };
  const stats: Result<'stats'> =
    status.host.state === 'connected'
      ? await peer.request('stats', {}, { signal, timeoutMs }).catch((e: unknown) => {
          if (isHyperturtleError(e, 'HT_UNAVAILABLE') || isHyperturtleError(e, 'HT_TIMEOUT')) return none;
          throw e;
        })
      : none;
  return { atMs: performance.now(), ...stats, status };
}

interface HookRate {
  hook: string;
  program: string;
  runs: number;
  handled: number;
  entries: number;
  passed: number;
  /** Faults among those passed whose entry was there already: L1 did not run. */
  there: number;
  toL1: number;
  /** Since the last look, or the beginning; not per second. */
  reasons: Record<string, number>;
}

interface L2Rate {
  name: string;
  pid: number;
  faults: number;
  new: number;
  existing: number;
  ahead: number;
  passed: number;
}

/** Per second since the sample before; the totals when there is none, or when counters began again. */
export function rates(before: TopSample | undefined, now: TopSample): { hooks: HookRate[]; l2s: L2Rate[] } {
  const seconds = before ? Math.max((now.atMs - before.atMs) / 1000, 0.001) : 1;
  const per = (was: number | undefined, is: number): number =>
    was === undefined || is < was ? (before ? 0 : is) : (is - was) / seconds;
  return {
    hooks: now.hooks.map((h) => {
      const was = before?.hooks.find(
        (b) => b.hook === h.hook && b.link === h.link && b.runs <= h.runs && before.since === now.since,
      );
      return {
        hook: h.hook,
        program: h.linked ? `${h.object ?? '?'}/${h.program ?? '?'}` : '-',
        runs: per(was?.runs, h.runs),
        handled: per(was?.handled, h.handled),
        entries: per(was?.entries, h.entries),
        passed: per(was?.passed, h.passed),
        there: per(was && figuresOf(was).there, figuresOf(h).there),
        toL1: per(was && figuresOf(was).toL1, figuresOf(h).toL1),
        reasons: Object.fromEntries(
          Object.entries(h.reasons)
            .map(([name, n]) => [name, n - (own(was?.reasons ?? {}, name) ?? 0)] as const)
            .filter(([, n]) => n > 0),
        ),
      };
    }),
    l2s: now.status.l2s.map((l) => {
      const was = before?.status.l2s.find((b) => b.pid === l.pid && b.since === l.since);
      return {
        name: l.name,
        pid: l.pid,
        faults: per(was?.faults, l.faults),
        new: per(was?.mappedNew, l.mappedNew),
        existing: per(was?.mappedExisting, l.mappedExisting),
        ahead: per(was?.mappedAhead, l.mappedAhead),
        passed: per(was?.passes, l.passes),
      };
    }),
  };
}

/** `width`: of the terminal; without one nothing is left out. */
export function topText(before: TopSample | undefined, now: TopSample, width = Infinity): string[] {
  const { hooks, l2s } = rates(before, now);
  const { host, module: m, desired, l2Problems } = now.status;
  const unit = before ? '/S' : '';
  const pool =
    m?.state === 'present' && m.arenaBound
      ? `pool ${m.pool.level} of ${m.pool.entries} frames (${m.pool.low}..${m.pool.high})${m.enabled ? '' : ', DISABLED'}`
      : m === null
        ? 'module left alone'
        : m.state === 'present'
          ? 'no arena'
          : `module ${m.state}`;
  const connected =
    host.state === 'connected' ? `${host.vm ?? '?'}, connected` : `${host.state} for the host`;
  const problems = [
    ...[...desired.problems, ...l2Problems].map((p) => `! ${p.step}: ${p.message}`),
    ...now.status.l2s.flatMap((l) => (l.noIndex === undefined ? [] : [`! ${l.name}: ${l.noIndex}`])),
  ];
  const head = [`hyperturtle top: ${connected};`, `${pool};`, desired.reached ? 'in sync' : 'out of sync'];
  return [
    ...wrapped(head, ' ', width),
    ...wrapped(reachedL1(hooks), ' ', width),
    '',
    ...fitted(hookColumns(hooks, unit), width, 'no hooks linked'),
    '',
    ...fitted(l2Columns(l2s, now, unit), width, 'no nested guests registered'),
    ...(problems.length > 0 ? ['', ...problems.flatMap((p) => wrapped([p], ' ', width))] : []),
  ];
}

const whole = (n: number): string => String(Math.round(n));

/** What matters most: how many of all faults this machine had to run for. */
function reachedL1(hooks: readonly HookRate[]): string[] {
  const npf = hooks.filter((h) => h.hook === 'npf' && h.runs > 0);
  const faults = npf.reduce((n, h) => n + h.runs, 0);
  const toL1 = npf.reduce((n, h) => n + h.toL1, 0);
  return faults > 0 ? ['page faults that reached L1:', shareOf(toL1, faults)] : [];
}

function hookColumns(hooks: readonly HookRate[], unit: string): Column[] {
  const each = (of: (h: HookRate) => string): string[] => hooks.map(of);
  const reasons = (h: HookRate): string =>
    reasonsToL1(h)
      .map(([name, n]) => `${name} ${n}`)
      .join(', ');
  return [
    { head: 'HOOK', cells: each((h) => h.hook), rank: 0, least: 10 },
    { head: 'PROGRAM', cells: each((h) => h.program), rank: 4, least: 9 },
    { head: `EVENTS${unit}`, cells: each((h) => whole(h.runs)), rank: 2 },
    { head: `IN L0${unit}`, cells: each((h) => whole(h.handled)), rank: 5 },
    { head: `THERE${unit}`, cells: each((h) => whole(h.there)), rank: 7 },
    { head: `TO L1${unit}`, cells: each((h) => whole(h.toL1)), rank: 6 },
    { head: 'TO L1%', cells: each((h) => shareOf(h.toL1, h.runs)), rank: 1 },
    { head: `ENTRIES${unit}`, cells: each((h) => whole(h.entries)), rank: 8 },
    { head: 'WHY', cells: each(reasons), rank: 3, least: 16, list: true },
  ];
}

function l2Columns(l2s: readonly L2Rate[], now: TopSample, unit: string): Column[] {
  const each = (of: (r: L2Rate, l: TopSample['status']['l2s'][number] | undefined) => number): string[] =>
    l2s.map((r, i) => whole(of(r, now.status.l2s[i])));
  return [
    { head: 'NESTED GUEST', cells: l2s.map((r) => r.name), rank: 0, least: 12 },
    { head: 'PID', cells: l2s.map((r) => String(r.pid)), rank: 6 },
    { head: 'PAGES', cells: each((_, l) => l?.pages ?? 0), rank: 5 },
    { head: 'FRAMES', cells: each((_, l) => l?.framesTaken ?? 0), rank: 4 },
    { head: `FAULTS${unit}`, cells: each((r) => r.faults), rank: 1 },
    { head: `NEW${unit}`, cells: each((r) => r.new), rank: 3 },
    { head: `EXISTING${unit}`, cells: each((r) => r.existing), rank: 8 },
    { head: `AHEAD${unit}`, cells: each((r) => r.ahead), rank: 7 },
    { head: `PASSED${unit}`, cells: each((r) => r.passed), rank: 2 },
  ];
}
