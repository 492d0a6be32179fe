/** `hyperturtle bench hooks`: what hooks on KVM cost VMs that nobody attached, counted in the compiled module. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { kernelOption } from '../shared/kernel-option.ts';

interface HooksOptions {
  kernel: string;
  json?: string;
}

export function registerHooksBench(bench: Command): void {
  bench
    .command('hooks')
    .description('instructions that hooks add to VMs that are not attached, counted in the compiled module')
    .addOption(kernelOption('kernel that the module is compiled for'))
    .option('--json <file>', 'also write the result there')
    .action(count);
}

async function count(o: HooksOptions): Promise<void> {
  const [{ disassembledModule }, { hookCosts }, { createProgress }, { checkOutput, writeOutput }] =
    await Promise.all([
      import('../../lab/prepare.ts'),
      import('../../bench/hooks/run.ts'),
      import('../../core/progress.ts'),
      import('../../core/files.ts'),
    ]);
  checkOutput(o.json);
  const costs = hookCosts(await disassembledModule({ kernel: o.kernel, progress: createProgress() }, 'host'));
  for (const c of costs)
    writeOut(`${c.event}: ${c.instructions} instructions in ${c.functions} hooked functions\n`);
  if (o.json !== undefined) writeOutput(o.json, `${JSON.stringify(costs, null, 1)}\n`);
}
