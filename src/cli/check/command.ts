/** `hyperturtle check FILE`: the host's admission rules, on any machine and without a daemon. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { integer, printJson } from '../shared/values.ts';

interface CheckFlags {
  hook?: string[];
  cpus?: number;
  json?: boolean;
}

export function registerCheck(program: Command): void {
  program
    .command('check')
    .description('would a host admit this object? Applies its rules and explains each refusal')
    .argument('<file>', 'compiled hyperupcall (.bpf.o)')
    .option('--hook <name...>', 'hooks that the VM may use (default: all)')
    .option(
      '--cpus <number>',
      'CPUs of the host, for the size of per-CPU maps (default: of this machine)',
      integer('--cpus', 1, 8192),
    )
    .option('--json', 'one line of JSON: {ok, programs, maps, constants, refusals}')
    .addHelpText(
      'after',
      `
Exit status 0: admitted, 19: refused. What a host applies as well: quotas of the VM, a signature if it wants one, its
kernel's verifier, and the hook's limit of verified instructions. The rules and their reasons: docs/admission.md.

Example:
  $ clang -target bpf -mcpu=v3 -O2 -g -c npf.bpf.c -o npf.bpf.o && hyperturtle check npf.bpf.o`,
    )
    .action(check);
}

async function check(file: string, options: CheckFlags): Promise<void> {
  const [
    { checkObject },
    { explain },
    { HyperturtleError },
    { EXIT_STATUS },
    { HOOK_TABLE },
    { readObjectFile },
    os,
  ] = await Promise.all([
    import('../../host/admission/check.ts'),
    import('../../host/admission/explain.ts'),
    import('../../core/errors.ts'),
    import('../../core/exit-status.ts'),
    import('../../host/hooks.ts'),
    import('../../core/object-file.ts'),
    import('node:os'),
  ]);
  const known = HOOK_TABLE.map((h) => h.name as string);
  const unknown = options.hook?.find((h) => !known.includes(h));
  if (unknown !== undefined)
    throw new HyperturtleError(
      'HT_USAGE',
      `--hook ${unknown}: there is no such hook; there are: ${known.join(', ')}`,
    );
  const cpus = options.cpus ?? os.cpus().length;
  const verdict = checkObject(readObjectFile(file), {
    policy: { cpus, ...(options.hook ? { hooks: options.hook } : {}) },
  });
  if (options.json) printJson({ file, ...verdict });
  else writeOut(explain(file, verdict));
  if (!verdict.ok) process.exitCode = EXIT_STATUS.HT_REFUSED.status;
}
