/** `hyperturtle bench exit`: what an exit costs that L1 answers, and the same answered in L0. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import { cpuOption, emulatedBy } from '../shared/emulated-cpu.ts';
import type { EmulatedCpu } from '../shared/emulated-cpu.ts';
import { integer } from '../shared/values.ts';

interface ExitOptions extends Omit<LabOptions, 'accel'>, EmulatedCpu {
  rounds: number;
  exits: number;
}

const ARENA_MIB = 16;
/** Bochs bears no more, and a VMM starts there in a minute. */
const INTEL = { l1MemoryMib: 1024, timeoutS: 400 } as const;

export function registerExitBench(bench: Command, version: string): void {
  labOptions(
    bench
      .command('exit')
      .description('CPUID and RDMSR of an L2: vanilla, answered in L0, and as L1 itself has them'),
  )
    .addOption(cpuOption())
    .option('--rounds <number>', 'variants take turns in each', integer('--rounds', 1, 100), 5)
    .option('--exits <number>', 'exits of one loop', integer('--exits', 1, 1_000_000), 2000)
    .action((o: ExitOptions, command: Command) =>
      measure(
        o.cpu === 'intel' && command.getOptionValueSource('l1Memory') === 'default'
          ? { ...o, l1Memory: INTEL.l1MemoryMib }
          : o,
        version,
      ),
    );
}

async function measure(o: ExitOptions, version: string): Promise<void> {
  const [{ runExitBench }, { exitTable }] = await Promise.all([
    import('../../bench/exits/run.ts'),
    import('../../report/exit.ts'),
  ]);
  const { rounds, exits, cpu } = o;
  const timeout = cpu === 'intel' ? { timeoutS: INTEL.timeoutS } : {};
  const report = await inLab({ ...o, accel: emulatedBy(o) }, ({ lab, progress, signal }) =>
    runExitBench(lab, { rounds, exits, arenaMib: ARENA_MIB, version, progress, signal, ...timeout }),
  );
  writeOut(`${exitTable(report)}\n`);
}
