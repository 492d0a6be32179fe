/** `hyperturtle lab kvm-selftests`: what KVM tests of itself, in L1, without us and with us. */
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { writeOut } from '../../core/output.ts';
import { inLab, labOptions } from '../shared/in-lab.ts';
import type { LabOptions } from '../shared/in-lab.ts';
import { integer } from '../shared/values.ts';

interface SelftestOptions extends LabOptions {
  only?: string;
  timeout: number;
}

export function registerSelftests(lab: Command): void {
  labOptions(
    lab
      .command('kvm-selftests')
      .description(
        "KVM's own selftests in a guest hypervisor, without and with our modules: verdicts must be the same",
      )
      .option(
        '--only <list>',
        'programs with one of these in their name, with commas between; default: all but heavy ones',
      )
      .option(
        '--timeout <seconds>',
        'kill a program after this time; six times that with sanitizers',
        integer('--timeout', 1, 7200),
        120,
      )
      .addHelpText(
        'after',
        "\nBuilt from Debian's linux-source package, and kept in the cache. It ends with status 17 (HT_INTEGRITY) when a verdict differs, or a kernel complained of something that it did not without our modules.",
      ),
  ).action(selftests);
}

async function selftests(o: SelftestOptions): Promise<void> {
  const { runSelftests, selftestTable } = await import('../../bench/kvm-selftests/run.ts');
  const report = await inLab({ ...o, kvmSelftests: true }, ({ lab, progress, signal }) =>
    runSelftests(lab, {
      timeoutSeconds: o.timeout,
      ...(o.only === undefined ? {} : { only: o.only.split(',') }),
      progress,
      signal,
    }),
  );
  writeOut(selftestTable(report));
  if (report.problems.length > 0)
    throw new HyperturtleError('HT_INTEGRITY', `KVM's selftests: ${report.problems.join('; ')}`);
}
