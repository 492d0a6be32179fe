/** `hyperturtle bench control`: the control plane, measured on this machine without a lab, or in one. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { measured } from '../shared/measured.ts';
import { inLab } from '../shared/in-lab.ts';
import { integer } from '../shared/values.ts';
import { kernelOption } from '../shared/kernel-option.ts';

interface ControlCommandOptions {
  object?: string;
  roundTrips: number;
  changes: number;
  rounds: number;
  seconds: number;
  window: number;
  lab?: boolean;
  kernel: string;
  json?: string;
}

const PROBE_INTERVAL_MS = 5;

/** Round trips in a lab, where each passes three emulated kernels. */
const LAB_ROUND_TRIPS = 200;
const LAB_CHANGES = 10;
const LAB_COMMANDS = 3;

export function registerControl(bench: Command, version: string): void {
  bench
    .command('control')
    .description('the host daemon: request round trip, load and link, memory, one VM under load of another')
    .option('--object <file>', 'eBPF object for hook npf; default: the newest that the lab has built')
    .option(
      '--round-trips <number>',
      'round trips of each method',
      integer('--round-trips', 1, 1_000_000),
      2000,
    )
    .option('--changes <number>', 'loads and links', integer('--changes', 1, 10_000), 30)
    .option('--rounds <number>', 'rounds of quiet, requests, garbage', integer('--rounds', 1, 100), 3)
    .option('--seconds <number>', 'seconds of each of them', integer('--seconds', 2, 3600), 10)
    .option('--window <number>', 'requests outstanding of the VM that loads', integer('--window', 1, 64), 32)
    .option('--lab', 'instead: in L0 and L1 of a lab, over their virtio port; no other option but these two')
    .addOption(kernelOption('kernel of all levels of the lab'))
    .option('--json <file>', 'write the result with all raw samples')
    .action((o: ControlCommandOptions) => (o.lab ? controlInLab(o, version) : control(o, version)));
}

async function controlInLab(o: ControlCommandOptions, version: string): Promise<void> {
  const { controlLabTable, runControlInLab } = await import('../../bench/control/lab.ts');
  const shape = { kernel: o.kernel, accel: 'tcg', l1Memory: 1024, l1Cpus: 1 } as const;
  const spec = { roundTrips: LAB_ROUND_TRIPS, changes: LAB_CHANGES, commands: LAB_COMMANDS, arenaMib: 8 };
  const json = o.json === undefined ? {} : { json: o.json };
  const result = await inLab({ ...shape, ...json }, ({ lab, progress, signal }) =>
    runControlInLab(lab, spec, { version, progress, signal }),
  );
  writeOut(controlLabTable(result));
}

async function control(o: ControlCommandOptions, version: string): Promise<void> {
  const result = await measured(o, async ({ progress, signal }) => {
    const { runControl } = await import('../../bench/control/run.ts');
    return runControl(
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
      { version, progress, signal },
    );
  });
  const { controlTable } = await import('../../bench/control/summary.ts');
  writeOut(controlTable(result));
}

/** Throws HT_NOT_FOUND. */
async function newestObject(): Promise<string> {
  const [{ cacheRoot }, fs, path] = await Promise.all([
    import('../../lab/xdg.ts'),
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
