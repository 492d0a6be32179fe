/** `hyperturtle host profile`: nested guests of a VM as its host's operator sees them, without its agent. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { symbolOptions } from '../profile/command.ts';
import type { OutputOptions } from '../profile/output.ts';
import { integer, printJson } from '../shared/values.ts';

interface HostProfileOptions extends OutputOptions {
  qmp?: string;
  pid?: number;
  seconds: number;
  depth: number;
  user?: boolean;
  json?: boolean;
  object?: string;
}

export function registerHostProfile(host: Command): void {
  symbolOptions(host.command('profile'))
    .description('where all nested guests of a VM spend their time; not while a daemon has the VM attached')
    .option('--qmp <socket>', 'QMP socket of the VM')
    .option('--pid <number>', 'process that runs the VM', integer('--pid', 1, 2 ** 22))
    .option('--hz <number>', 'samples a second of each vCPU', integer('--hz', 1, 10_000), 999)
    .option('--seconds <number>', 'how long; Ctrl-C ends it before', integer('--seconds', 1, 86_400), 10)
    .option('--depth <number>', 'most addresses of one stack; 1: no stacks', integer('--depth', 1, 64), 64)
    .option('--user', 'user space alone')
    .option('--no-user', 'the kernel alone')
    .option('-o, --output <file>', 'as with hyperturtle profile')
    .option('--rows <number>', 'functions shown', integer('--rows', 1, 10_000), 20)
    .option('--json', 'one line of JSON')
    .addHelpText(
      'after',
      '\nExample:\n  hyperturtle host profile --qmp /run/l1/qmp.sock --seconds 5 --kernel vmlinux -o l2.svg',
    )
    .action(profile);
}

async function profile(o: HostProfileOptions): Promise<void> {
  const [
    { Attachment },
    { abortOnSignals },
    { sleep },
    { isHyperturtleError },
    session,
    output,
    abi,
    net,
    { objectFile },
  ] = await Promise.all([
    import('../../host/attach.ts'),
    import('../../core/lifecycle.ts'),
    import('../../core/wait.ts'),
    import('../../core/errors.ts'),
    import('../../client/profile.ts'),
    import('../profile/output.ts'),
    import('../../kernel/sample.ts'),
    import('../../profile/stacks.ts'),
    import('../../client/object.ts'),
  ]);
  if (o.output !== undefined) await output.formatOf(o.output);
  const programPath = o.object ?? objectFile('profile.bpf.o');
  const signals = abortOnSignals();
  try {
    const flags =
      (o.user === false ? abi.HT_PROFILE_F_NO_USER : 0) | (o.user === true ? abi.HT_PROFILE_F_NO_KERNEL : 0);
    await using attachment = await Attachment.open({
      qmpPath: o.qmp,
      pid: o.pid,
      arenaBytes: 1 << 20,
      programPath,
      hook: 'sample',
      options: { hz: o.hz, depth: o.depth },
      prepare: (maps) => net.setWanted(maps, { l2: 0, flags }),
      qmpTimeoutMs: 30_000,
      unplugTimeoutMs: 30_000,
      signal: signals.signal,
    });
    const maps = attachment.maps();
    const when = { startedAt: new Date(), durationMs: 0 };
    const begin = performance.now();
    if (o.json) printJson({ event: 'begin' });
    await sleep(o.seconds * 1000, signals.signal).catch((e: unknown) => {
      if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
    });
    await attachment.unlink();
    when.durationMs = performance.now() - begin;
    const counted = await session.readCounted(maps);
    const taken = session.takenBetween(undefined, attachment.stats());
    const result = await output.profileResult(o, undefined, counted, taken, when);
    if (o.json) printJson(result);
    else writeOut(`${output.resultText(result)}\n`);
  } finally {
    signals.dispose();
  }
}
