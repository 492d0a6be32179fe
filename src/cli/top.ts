/** `hyperturtle top`: hooks, pool and nested guests of this L1, live; plain lines when there is no terminal. */
import type { Command } from 'commander';
import type { AgentResult } from '../guest/agent/schema.ts';
import type { HookStats } from '../wire/schema.ts';
import { columns, l1Options, withAgent } from './l1-client.ts';
import type { AgentClient } from './l1-client.ts';
import { profileTop, symbolOptions } from './l1-profile.ts';
import type { ProfileTopOptions } from './l1-profile.ts';
import { liveTable } from './screen.ts';
import { integer, printJson } from './values.ts';
import { own } from '../core/own.ts';

interface TopOptions extends Omit<ProfileTopOptions, 'l2'> {
  l2?: string;
}

export interface TopSample {
  atMs: number;
  hooks: readonly HookStats[];
  status: AgentResult<'agent.status'>;
}

export function registerTop(program: Command): void {
  symbolOptions(l1Options(program.command('top')))
    .description('live table: what the hooks do, why faults are passed on, the pool, each nested guest')
    .option('--l2 <name>', 'the hottest functions of this nested guest instead, sampled by the host')
    .option('--hz <number>', 'with --l2: samples a second of each vCPU', integer('--hz', 1, 10_000), 99)
    .option('--rows <number>', 'with --l2: functions shown', integer('--rows', 1, 10_000), 30)
    .option('--interval-s <number>', 'between looks', integer('--interval-s', 1, 3600), 1)
    .option('--count <number>', 'end after so many', integer('--count', 1, 2 ** 31))
    .addHelpText(
      'after',
      `
HANDLED%  of the events since the last look, answered in the host without this machine running
WHY       reasons of those passed on since the last look, most frequent first:
          POOL_EMPTY   raise the pool ('hyperturtle guest set --pool-low ... --pool-high ...')
          NO_TEMPLATE  normal for the first faults of a nested guest
          NO_L2, L2_OFF  a nested guest that is not registered ('hyperturtle doctor')
Without a terminal, or with --json, one block or line for each look. Ends at Ctrl-C.`,
    )
    .action(top);
}

async function top(options: TopOptions): Promise<void> {
  if (options.l2 !== undefined) return profileTop({ ...options, l2: options.l2 });
  const [{ sleep }, { isHyperturtleError }] = await Promise.all([
    import('../core/wait.ts'),
    import('../core/errors.ts'),
  ]);
  const screen = options.json ? undefined : liveTable();
  try {
    await withAgent(options, async (client) => {
      let before: TopSample | undefined;
      for (let n = 0; n < (options.count ?? Infinity); n++) {
        if (n > 0) await sleep(options.intervalS * 1000, client.signal);
        const now = await sample(client);
        if (screen) screen.show(topText(before, now));
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
  const { isHyperturtleError } = await import('../core/errors.ts');
  const hooks =
    status.host.state === 'connected'
      ? await peer.request('stats', {}, { signal, timeoutMs }).then(
          (r) => r.hooks,
          (e: unknown) => {
            if (isHyperturtleError(e, 'HT_UNAVAILABLE') || isHyperturtleError(e, 'HT_TIMEOUT')) return [];
            throw e;
          },
        )
      : [];
  return { atMs: performance.now(), hooks, status };
}

interface HookRate {
  hook: string;
  program: string;
  runs: number;
  handled: number;
  entries: number;
  passed: number;
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

/** Per second since the sample before; the totals when there is none, or when counters began anew. */
export function rates(before: TopSample | undefined, now: TopSample): { hooks: HookRate[]; l2s: L2Rate[] } {
  const seconds = before ? Math.max((now.atMs - before.atMs) / 1000, 0.001) : 1;
  const per = (was: number | undefined, is: number): number =>
    was === undefined || is < was ? (before ? 0 : is) : (is - was) / seconds;
  return {
    hooks: now.hooks.map((h) => {
      const was = before?.hooks.find((b) => b.hook === h.hook && b.runs <= h.runs);
      return {
        hook: h.hook,
        program: h.linked ? `${h.object ?? '?'}/${h.program ?? '?'}` : '-',
        runs: per(was?.runs, h.runs),
        handled: per(was?.handled, h.handled),
        entries: per(was?.entries, h.entries),
        passed: per(was?.passed, h.passed),
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

export function topText(before: TopSample | undefined, now: TopSample): string[] {
  const { hooks, l2s } = rates(before, now);
  const { host, module: m, desired, l2Problems } = now.status;
  const unit = before ? '/S' : '';
  const whole = (n: number): string => String(Math.round(n));
  const share = (h: HookRate): string => (h.runs > 0 ? `${((100 * h.handled) / h.runs).toFixed(1)}%` : '-');
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
  const why = (h: HookRate): string =>
    Object.entries(h.reasons)
      .sort(([, a], [, b]) => b - a)
      .map(([name, n]) => `${name} ${n}`)
      .join(', ');
  const problems = [...desired.problems, ...l2Problems];
  return [
    `hyperturtle top: ${connected}; ${pool}; ${desired.reached ? 'all that is wanted is there' : 'wanted state not reached'}`,
    '',
    ...table(
      [
        'HOOK',
        'PROGRAM',
        `EVENTS${unit}`,
        `HANDLED${unit}`,
        'HANDLED%',
        `ENTRIES${unit}`,
        `PASSED${unit}`,
        'WHY',
      ],
      hooks.map((h) => [
        h.hook,
        h.program,
        whole(h.runs),
        whole(h.handled),
        share(h),
        whole(h.entries),
        whole(h.passed),
        why(h),
      ]),
      'no hooks linked',
    ),
    '',
    ...table(
      [
        'NESTED GUEST',
        'PID',
        'PAGES',
        'FRAMES',
        `FAULTS${unit}`,
        `NEW${unit}`,
        `EXISTING${unit}`,
        `AHEAD${unit}`,
        `PASSED${unit}`,
      ],
      l2s.map((r, i) => {
        const l = now.status.l2s[i];
        return [
          r.name,
          String(r.pid),
          String(l?.pages ?? 0),
          String(l?.framesTaken ?? 0),
          ...[r.faults, r.new, r.existing, r.ahead, r.passed].map(whole),
        ];
      }),
      'no nested guests registered',
    ),
    ...(problems.length > 0 ? ['', ...problems.map((p) => `! ${p.step}: ${p.message}`)] : []),
  ];
}

function table(head: readonly string[], rows: readonly (readonly string[])[], empty: string): string[] {
  return rows.length === 0 ? [empty] : columns(head, rows).split('\n');
}
