/** `hyperturtle bench control`: the host daemon's control plane, measured on this machine without a lab. */
import type { Command } from 'commander';
import { HyperturtleError } from '../core/errors.ts';
import { integer } from './values.ts';

interface ControlCommandOptions {
  object?: string;
  roundTrips: number;
  changes: number;
  rounds: number;
  seconds: number;
  window: number;
  json?: string;
}

const PROBE_INTERVAL_MS = 5;

export function registerControl(bench: Command, version: string): void {
  bench
    .command('control')
    .description('the host daemon: request round trip, load and link, memory, one VM under load of another')
    .option('--object <file>', 'eBPF object for hook npf; default: the newest that the lab has built')
    .option('--round-trips <number>', 'of each method', integer('--round-trips', 1, 1_000_000), 2000)
    .option('--changes <number>', 'loads and links', integer('--changes', 1, 10_000), 30)
    .option('--rounds <number>', 'of quiet, requests, garbage', integer('--rounds', 1, 100), 3)
    .option('--seconds <number>', 'of each of them', integer('--seconds', 2, 3600), 10)
    .option('--window <number>', 'requests outstanding of the VM that loads', integer('--window', 1, 64), 32)
    .option('--json <file>', 'write the result with all raw samples')
    .action((o: ControlCommandOptions) => control(o, version));
}

async function control(o: ControlCommandOptions, version: string): Promise<void> {
  const [{ runControl }, { controlTable }, { createProgress }, { abortOnSignals }, fs] = await Promise.all([
    import('../bench/control.ts'),
    import('../bench/control-summary.ts'),
    import('../core/progress.ts'),
    import('../core/lifecycle.ts'),
    import('node:fs/promises'),
  ]);
  const { signal, dispose } = abortOnSignals();
  try {
    const result = await runControl(
      {
        objectFile: o.object ?? (await newestObject()),
        roundTrips: o.roundTrips,
        changes: o.changes,
        rounds: o.rounds,
        phaseSeconds: o.seconds,
        probeIntervalMs: PROBE_INTERVAL_MS,
        requestsPerSecond: 1000,
        window: o.window,
      },
      { version, progress: createProgress(), signal },
    );
    if (o.json !== undefined) await fs.writeFile(o.json, `${JSON.stringify(result, null, 1)}\n`);
    process.stdout.write(controlTable(result));
  } finally {
    dispose();
  }
}

/** Throws HT_NOT_FOUND. */
async function newestObject(): Promise<string> {
  const [{ cacheRoot }, fs, path] = await Promise.all([
    import('../lab/xdg.ts'),
    import('node:fs/promises'),
    import('node:path'),
  ]);
  const builds = path.join(cacheRoot(), 'builds');
  const names = await fs.readdir(builds).catch(() => []);
  const found = await Promise.all(
    names
      .filter((n) => n.startsWith('bpf-'))
      .map(async (n) => {
        const file = path.join(builds, n, 'npf.bpf.o');
        return { file, at: (await fs.stat(file).catch(() => undefined))?.mtimeMs };
      }),
  );
  const newest = found.filter((f) => f.at !== undefined).sort((a, b) => b.at! - a.at!)[0];
  if (newest) return newest.file;
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `no npf.bpf.o in ${builds}: run the lab once ('hyperturtle demo'), or give --object FILE`,
  );
}
