/** `hyperturtle vmm -- PROGRAM ARGS`: any VMM, its guest's memory on turtlefs. */
import type { Command } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { integer } from '../shared/values.ts';

interface Options {
  name?: string;
  dir?: string;
  minMib: number;
  over?: readonly string[];
  timeoutS: number;
  orPlain?: boolean;
  syslog?: boolean;
  nameFromId?: boolean;
}

export function registerVmm(program: Command): void {
  program
    .command('vmm')
    .argument('<program>', 'the VMM, after --')
    .argument('[arguments...]', 'its arguments')
    .description("start a VMM that knows nothing of turtlefs, its guest's memory on turtlefs")
    .option('--name <text>', "name of the guest in listings; default: the VMM's -name, or pid-N")
    .option(
      '--name-from-id',
      'name the guest after the id (32 to 64 hexadecimal digits) in an argument, as Kata gives one',
    )
    .option('--dir <path>', 'where the memory comes from; default: where turtlefs is mounted')
    .option('--min-mib <number>', 'smallest memory that is taken', integer('--min-mib', 1, 1 << 20), 32)
    .option(
      '--over <directory>',
      "mount turtlefs there, for the VMM alone; may be repeated. Default: /dev/shm and huge pages' directories, where an argument names them",
      (place: string, before: readonly string[] = []) => [...before, place],
    )
    .option(
      '--timeout-s <number>',
      'seconds to wait for the supervisor before the VMM is started',
      integer('--timeout-s', 1, 3600),
      60,
    )
    .option('--or-plain', 'where the memory cannot come from there, say so and start the VMM without it')
    .option('--syslog', "what is said goes to the system's log as well")
    .addHelpText(
      'after',
      `
This process becomes the VMM: pid, signals, standard input and exit status are the VMM's own.

Examples:
  hyperturtle vmm -- qemu-system-x86_64 -accel kvm -m 2048 -name web ...
  hyperturtle vmm --name fc1 -- firecracker --no-api --config-file vm.json`,
    )
    .action(vmm);
}

async function vmm(program: string, args: readonly string[], o: Options): Promise<void> {
  if (o.name !== undefined && !/^[\x21-\x7e]{1,31}$/.test(o.name))
    throw new HyperturtleError(
      'HT_USAGE',
      `--name: 1 to 31 printable characters without spaces expected, '${o.name}' found`,
    );
  // they are passed as the kernel has them, by their number
  const last = process.argv.slice(-args.length - 2);
  if (!['--', program, ...args].every((word, i) => word === last[i]))
    throw new HyperturtleError(
      'HT_USAGE',
      `'hyperturtle vmm [options] -- PROGRAM ARGUMENTS' expected: '--' is not before '${program}'`,
    );
  const { launch } = await import('../../guest/launch/launch.ts');
  await launch({
    program,
    argumentCount: args.length,
    name: o.name ?? (o.nameFromId === true ? nameFromId(args) : undefined),
    dir: o.dir,
    minMib: o.minMib,
    over: o.over,
    startMs: o.timeoutS * 1000,
    orPlain: o.orPlain === true,
    syslog: o.syslog === true,
  });
}

/** As QEMU's -name has it by Kata, for VMMs that have no such option; as long as names may be. Pure. */
export function nameFromId(args: readonly string[]): string | undefined {
  const id = args.flatMap((arg) => /(?<![0-9a-f])[0-9a-f]{32,64}(?![0-9a-f])/.exec(arg) ?? [])[0];
  return id === undefined ? undefined : `sandbox-${id}`.slice(0, 31);
}
