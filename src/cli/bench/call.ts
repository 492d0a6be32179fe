/** `hyperturtle bench call`: what a call of a program in L0 costs, against plain hypercalls and the channel. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import { cpuOption, emulatedBy } from '../shared/emulated-cpu.ts';
import type { EmulatedCpu } from '../shared/emulated-cpu.ts';
import { integer } from '../shared/values.ts';

interface CallBenchOptions extends Omit<LabOptions, 'accel'>, EmulatedCpu {
  rounds: number;
  calls: number;
  channelCalls: number;
}

const ARENA_MIB = 16;
/** Bochs bears no more; a VMM starts there in a minute, an agent in many. */
const INTEL = { l1MemoryMib: 1024, timeoutS: 400, arenaMib: 8, channelCalls: 0 } as const;

export function registerCallBench(bench: Command, version: string): void {
  labOptions(
    bench
      .command('call')
      .description('calls of a program in L0, from L1, an L2 and by the channel, against plain hypercalls'),
  )
    .addOption(cpuOption())
    .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 100), 3)
    .option('--calls <number>', 'calls of one loop', integer('--calls', 1, 1_000_000), 2000)
    .option(
      '--channel-calls <number>',
      'calls by the channel, once; 0: none, as with --cpu intel',
      integer('--channel-calls', 0, 100_000),
      400,
    )
    .action((o: CallBenchOptions, command: Command) => {
      if (o.cpu !== 'intel') return measure(o, version);
      const given = (name: string): boolean => command.getOptionValueSource(name) !== 'default';
      return measure(
        {
          ...o,
          ...(given('l1Memory') ? {} : { l1Memory: INTEL.l1MemoryMib }),
          ...(given('channelCalls') ? {} : { channelCalls: INTEL.channelCalls }),
        },
        version,
      );
    });
}

async function measure(o: CallBenchOptions, version: string): Promise<void> {
  const [{ runCallBench }, { callTable }] = await Promise.all([
    import('../../bench/call/run.ts'),
    import('../../report/call.ts'),
  ]);
  const { rounds, calls, channelCalls, cpu } = o;
  const intel = cpu === 'intel';
  const report = await inLab({ ...o, accel: emulatedBy(o) }, ({ lab, progress, signal }) =>
    runCallBench(lab, {
      ...{ rounds, calls, channelCalls, version, progress, signal },
      arenaMib: intel ? INTEL.arenaMib : ARENA_MIB,
      ...(intel ? { timeoutS: INTEL.timeoutS } : {}),
    }),
  );
  writeOut(`${callTable(report)}\n`);
}
