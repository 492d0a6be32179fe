/** Tells the host what this L1 would show its own operator, for as long as a session lasts: few numbers, and names. */
import { sleep } from '../../core/wait.ts';
import { kindOf } from '../../wire/errors.ts';
import { TOLERANT_PROTOCOL } from '../../wire/schema.ts';
import type { L1Report } from '../../wire/schema.ts';
import type { HostCalls } from './reconcile.ts';
import type { AgentResult } from './schema.ts';

/** Nested guests that the host takes in an L1Report. */
const MAX_L2S = 64;
const MAX_NAME = 64;
const MAX_WHY = 512;
/** Whatever the host wants. */
const BOUNDS_MS = { least: 1000, most: 60_000 } as const;

/** `protocol`: an older host refuses a report with members that it does not know. */
export function l1Report(
  { module, l2s }: Pick<AgentResult<'agent.status'>, 'module' | 'l2s'>,
  protocol: number,
): L1Report {
  const { low, high, level, entries, refills, shrunk } = module?.pool ?? {
    low: 0,
    high: 0,
    level: 0,
    entries: 0,
    refills: 0,
    shrunk: 0,
  };
  return {
    pool:
      module?.state === 'present' && module.arenaBound
        ? {
            enabled: module.enabled,
            level,
            low,
            high,
            entries,
            refills,
            shrunk,
            indexWords: module.index.words,
            indexUsed: module.index.used,
          }
        : null,
    l2Count: l2s.length,
    l2s: l2s.slice(0, MAX_L2S).map((l) => ({
      pid: l.pid,
      name: l.name.slice(0, MAX_NAME),
      number: l.number,
      since: l.since,
      pages: l.pages,
      framesTaken: l.framesTaken,
      faults: l.faults,
      mappedNew: l.mappedNew,
      mappedExisting: l.mappedExisting,
      mappedAhead: l.mappedAhead,
      passes: l.passes,
      ...(l.noIndex === undefined || protocol < TOLERANT_PROTOCOL
        ? {}
        : { noIndex: l.noIndex.slice(0, MAX_WHY) }),
    })),
  };
}

/**
 * Until `signal` aborts, whose reason it throws. Reports are for show: one that the host refuses is not sent again until the
 * next is due, and a host without the method is not asked again.
 */
export async function keepReporting(
  host: HostCalls,
  report: () => L1Report,
  signal: AbortSignal,
): Promise<void> {
  let nextMs: number = BOUNDS_MS.least;
  for (;;) {
    try {
      ({ nextMs } = await host.request('report', report(), { signal }));
    } catch (e) {
      signal.throwIfAborted();
      if (kindOf(e) === 'METHOD_NOT_FOUND') return;
      nextMs = BOUNDS_MS.most;
    }
    await sleep(Math.min(Math.max(nextMs, BOUNDS_MS.least), BOUNDS_MS.most), signal);
  }
}
