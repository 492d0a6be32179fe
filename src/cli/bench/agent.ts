/** `hyperturtle bench agent`: the control channel of this L1, measured from within it. */
import type { Command } from 'commander';
import type { ChangeSample } from '../../bench/control/schema.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import { integer } from '../shared/values.ts';

interface AgentBenchOptions extends L1Options {
  object?: string;
  roundTrips: number;
  changes: number;
}

export function registerAgentBench(bench: Command): void {
  l1Options(
    bench
      .command('agent', { hidden: true })
      .description('in an L1: round trips to its host through the agent; load, link, unlink, unload')
      .option('--object <file>', 'eBPF object for hook npf, which must be free; left out: round trips alone')
      .option(
        '--round-trips <number>',
        'round trips of each method',
        integer('--round-trips', 1, 1_000_000),
        200,
      )
      .option('--changes <number>', 'loads and links', integer('--changes', 1, 10_000), 10),
  ).action(agentBench);
}

async function agentBench(o: AgentBenchOptions): Promise<void> {
  const [{ change, roundTripsUs }, { percentile }, { RESULT_SCHEMA_VERSION }, { readObjectFile }] =
    await Promise.all([
      import('../../bench/control/measure.ts'),
      import('../../bench/control/summary.ts'),
      import('../../bench/shared/environment-schema.ts'),
      import('../../core/object-file.ts'),
    ]);
  const elf = o.object === undefined ? undefined : readObjectFile(o.object);
  await withAgent(o, async ({ peer, signal, timeoutMs }) => {
    const startedAt = new Date().toISOString();
    await roundTripsUs(peer, 5, signal); // the first of each compile what they run
    const trips = await roundTripsUs(peer, o.roundTrips, signal);
    const changes: ChangeSample[] = [];
    for (let i = 0; elf !== undefined && i < o.changes; i++)
      changes.push({ pace: 'next', ...(await change(peer, elf.toString('base64'), { signal, timeoutMs })) });
    const result = {
      schema: RESULT_SCHEMA_VERSION,
      benchmark: 'agent',
      startedAt,
      objectBytes: elf?.length ?? 0,
      roundTripsUs: trips,
      changes,
    } as const;
    print(o, result, () => {
      const line = (what: string, ms: number[]): string =>
        `${what}, p50 / p99: ${percentile(ms, 0.5).toFixed(2)} / ${percentile(ms, 0.99).toFixed(2)} ms`;
      return [
        ...Object.entries(trips).map(([method, us]) =>
          line(
            method,
            us.map((n) => n / 1000),
          ),
        ),
        ...(['loadMs', 'linkMs', 'unlinkMs', 'unloadMs'] as const)
          .filter(() => changes.length > 0)
          .map((what) =>
            line(
              what.slice(0, -2),
              changes.map((c) => c[what]),
            ),
          ),
      ].join('\n');
    });
  });
}
