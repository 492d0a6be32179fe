/**
 * The control plane where it is used: in a lab's L0 and L1, over the virtio port between them. Under emulation a
 * process takes seconds to start, so requests are timed within one client (`hyperturtle bench agent` in L1), and the
 * commands of L1's command line as a whole beside them.
 */
import { CleanupStack } from '../../core/lifecycle.ts';
import type { Progress } from '../../core/progress.ts';
import type { Lab } from '../../lab/lab.ts';
import { FIRST_SEAT } from '../../lab/machine.ts';
import { agentResultSchema } from './schema.ts';
import type { ControlLabResult } from './schema.ts';
import { percentile } from './summary.ts';
import { environmentOf } from '../shared/environment.ts';
import { ManagedGuest, ManagedHost, NPF } from '../../testbed/managed.ts';
import { RESULT_SCHEMA_VERSION } from '../shared/environment-schema.ts';

export interface ControlLabSpec {
  roundTrips: number;
  changes: number;
  /** Whole commands. */
  commands: number;
  arenaMib: number;
}

const SETTLED_MS = 120_000;

/** The lab must be up, and nobody else using it. It is left as it was found. */
export async function runControlInLab(
  lab: Lab,
  spec: ControlLabSpec,
  options: { version: string; progress: Progress; signal?: AbortSignal | undefined },
): Promise<ControlLabResult> {
  const { progress, signal } = options;
  const startedAt = new Date();
  const undo = new CleanupStack();
  try {
    let step = progress.step('daemon in L0, agent in L1');
    const host = new ManagedHost(lab.l0);
    await host.setUp(undo, [{ name: 'l1', seat: FIRST_SEAT, arenaMib: spec.arenaMib }], signal);
    const guest = new ManagedGuest(lab.l1);
    await guest.setUpAgent(undo, signal);
    await guest.whenSettled(0, SETTLED_MS, signal);
    step.done();
    step = progress.step(`${spec.roundTrips} round trips of each kind, ${spec.changes} loads and links`);
    const counts = ['--round-trips', String(spec.roundTrips), '--changes', String(spec.changes)];
    const said = await guest.command(['bench', 'agent', '--object', NPF, '--json', ...counts], signal);
    const client = agentResultSchema().parse(JSON.parse(said));
    step.done();
    step = progress.step(`${spec.commands} times hyperturtle load --link, unload`);
    const loadCommandMs: number[] = [];
    for (let i = 0; i < spec.commands; i++) {
      const t0 = performance.now();
      await guest.load(signal);
      loadCommandMs.push(performance.now() - t0);
      await guest.unload();
    }
    step.done();
    return {
      schema: RESULT_SCHEMA_VERSION,
      benchmark: 'control-lab',
      environment: await environmentOf(lab, options.version, startedAt),
      parameters: {
        roundTrips: spec.roundTrips,
        changes: spec.changes,
        commands: spec.commands,
        objectBytes: client.objectBytes,
      },
      client,
      loadCommandMs,
    };
  } finally {
    await undo.run();
  }
}

/** For people: one table. */
export function controlLabTable(r: ControlLabResult): string {
  const ms = (n: number): string => `${n.toFixed(1)} ms`;
  const pair = (samples: readonly number[], of = 1): string =>
    `${ms(percentile(samples, 0.5) / of)} / ${ms(percentile(samples, 0.99) / of)}`;
  const { roundTripsUs, changes } = r.client;
  const rows: [string, string][] = [
    ...Object.entries(roundTripsUs).map(([method, us]): [string, string] => [
      `${method}: client in L1, agent, virtio port, daemon and back, p50 / p99`,
      pair(us, 1000),
    ]),
  ];
  const add = (what: string, samples: readonly number[]): number => rows.push([what, pair(samples)]);
  if (changes.length > 0) {
    add(
      'load, p50 / p99',
      changes.map((c) => c.loadMs),
    );
    add(
      'link, p50 / p99',
      changes.map((c) => c.linkMs),
    );
    add(
      'load and link, p50 / p99',
      changes.map((c) => c.loadMs + c.linkMs),
    );
  }
  if (r.loadCommandMs.length > 0) add('hyperturtle load --link, a whole command, p50 / p99', r.loadCommandMs);
  const width = Math.max(...rows.map(([what]) => what.length));
  return `${rows.map(([what, value]) => `  ${what.padEnd(width)}  ${value}`).join('\n')}\n`;
}
