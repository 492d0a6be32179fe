/** `hyperturtle host attach|stats|pin|run`: a VM of L0 by hand, without the daemon. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import type { AttachSpec, Attachment } from '../../host/attach.ts';
import { KVM_HOOKS } from '../../kernel/host.ts';
import type { KvmHook } from '../../kernel/host.ts';
import type { LinkOptions } from '../../wire/link-options.ts';
import { linkOption } from '../shared/link-option.ts';
import { integer, printJson } from '../shared/values.ts';

interface TargetOptions {
  qmp?: string;
  pid?: number;
}

interface AttachOptions extends TargetOptions {
  hook: KvmHook;
  option: LinkOptions | undefined;
  arenaMib: number;
  bus: string;
  plug: boolean;
  program: string | boolean;
  qmpTimeoutS: number;
}

interface RunOptions {
  arenaMib: number;
  program: string;
  repeat: number;
  contexts?: string;
  arenaFrom?: string;
  arenaTo?: string;
}

/** For tests that race links with what runs. */
const CHURN_LINKS = 1000;

const pidOption = ['--pid <number>', 'process that runs the VM', integer('--pid', 1, 2 ** 22)] as const;
const qmpOption = ['--qmp <socket>', 'QMP socket of the VM'] as const;
const arenaOption = [
  '--arena-mib <number>',
  'size of the arena, a power of two',
  integer('--arena-mib', 1, 256),
  16,
] as const;

const hookOption = (): Option =>
  new Option('--hook <name>', 'the hook').choices([...KVM_HOOKS]).default('npf');

/** `host attach|stats|pin|run`. */
export function registerByHand(host: Command): void {
  registerAttach(host);
  registerStats(host);
  registerPin(host);
  registerRun(host);
}

function registerAttach(host: Command): void {
  host
    .command('attach')
    .description('give a VM its arena and program; runs until SIGTERM, which undoes it')
    .option(...qmpOption)
    .option(...pidOption)
    .option(...arenaOption)
    .option('--program <file>', 'compiled hyperupcall (.bpf.o)')
    .option('--no-program', 'attach without a program')
    .addOption(hookOption())
    .addOption(linkOption())
    .option('--bus <id>', 'root port of the VM that the arena is plugged into', 'arena0')
    .option('--no-plug', 'do not plug the arena into the VM')
    .option(
      '--qmp-timeout-s <number>',
      'seconds to wait for QEMU and the guest',
      integer('--qmp-timeout-s', 1, 600),
      30,
    )
    .addHelpText(
      'after',
      '\nSIGUSR1 unlinks the program, SIGUSR2 links it, in place of itself when it is linked; each prints a line of JSON with statistics.',
    )
    .action(attach);
}

function registerStats(host: Command): void {
  host
    .command('stats')
    .description('what the hook of an attached VM did')
    .option(...qmpOption)
    .option(...pidOption)
    .addOption(hookOption())
    .option('--json', 'one line of JSON')
    .action(stats);
}

function registerPin(host: Command): void {
  host
    .command('pin')
    .description("a VM's virtual CPUs on chosen CPUs of this machine, until it ends or they are chosen again")
    .requiredOption(...qmpOption)
    .requiredOption(
      '--cpus <list>',
      "CPUs for the VM's, in their order: 0,2-3; begins again when there are fewer",
    )
    .option('--json', 'one line of JSON')
    .addHelpText(
      'after',
      "\nWith one CPU for each and nothing else on them, an L1 whose guests are pinned too ('hyperturtle run --pin') is measured undisturbed.",
    )
    .action(pin);
}

function registerRun(host: Command): void {
  host
    .command('run', { hidden: true })
    .description('run a program on contexts of your own, with an arena of your own, in a VM without CPUs')
    .option(...arenaOption)
    .requiredOption('--program <file>', 'compiled hyperupcall (.bpf.o)')
    .option('--repeat <number>', 'runs of each context', integer('--repeat', 1, 1_000_000), 1)
    .option('--contexts <file>', 'JSON: an array of cases, each an array of contexts; default: one of zeros')
    .option('--arena-from <file>', "the arena's content before the runs, one after the other for each case")
    .option('--arena-to <file>', 'writes its content after each case there')
    .addHelpText('after', '\nMakes that VM itself. Prints one line of JSON.')
    .action(run);
}

async function attach(options: AttachOptions): Promise<void> {
  const [{ Attachment }, { abortOnSignals }, { HyperturtleError }] = await Promise.all([
    import('../../host/attach.ts'),
    import('../../core/lifecycle.ts'),
    import('../../core/errors.ts'),
  ]);
  if (options.program === true || options.program === undefined)
    throw new HyperturtleError('HT_USAGE', 'give --program FILE, or --no-program to attach without one');
  const signals = abortOnSignals();
  try {
    const attachment = await Attachment.open({
      ...baseSpec(options),
      hook: options.hook,
      options: options.option,
      bus: options.plug ? options.bus : undefined,
      programPath: options.program === false ? undefined : options.program,
      qmpTimeoutMs: options.qmpTimeoutS * 1000,
      unplugTimeoutMs: options.qmpTimeoutS * 1000,
      signal: signals.signal,
    });
    try {
      await serve(attachment, signals.signal);
    } finally {
      await attachment.close();
      printJson({ event: 'detached' });
    }
  } finally {
    signals.dispose();
  }
}

/** Until the signal or the end of the VM. */
async function serve(attachment: Attachment, signal: AbortSignal): Promise<void> {
  const { isHyperturtleError, messageOf } = await import('../../core/errors.ts');
  const on = (event: string, change: () => Promise<void>) => async (): Promise<void> => {
    try {
      await change();
      printJson({ event, linked: attachment.status().linked, stats: attachment.stats() });
    } catch (e) {
      printJson({ event: 'error', code: isHyperturtleError(e) ? e.code : null, message: messageOf(e) });
    }
  };
  const churn = async (): Promise<void> => {
    const begin = performance.now();
    try {
      for (let i = 0; i < CHURN_LINKS; i++) {
        await attachment.unlink();
        await attachment.link(); // where nothing is linked
        if (i % 10 === 0) await attachment.link(); // in its own place
      }
      printJson({ event: 'churned', times: CHURN_LINKS, ms: Math.round(performance.now() - begin) });
    } catch (e) {
      printJson({ event: 'error', code: isHyperturtleError(e) ? e.code : null, message: messageOf(e) });
    }
  };
  // each is over before the next begins: nothing here waits for other than the kernel
  const unlinked = on('unlinked', () => attachment.unlink());
  const linked = on('linked', () => attachment.link());
  const handle = {
    churn: () => void churn(),
    unlink: () => void unlinked(),
    link: () => void linked(),
  };
  const watching = new AbortController();
  const ends = (async (): Promise<void> => {
    for (;;)
      for (const ended of await attachment.whenLinkEnds(watching.signal))
        printJson({ event: 'ended', linked: attachment.status().linked, ...ended });
  })().catch((e: unknown) => {
    if (!watching.signal.aborted) printJson({ event: 'error', code: null, message: messageOf(e) });
  });
  process.on('SIGURG', handle.churn);
  process.on('SIGUSR1', handle.unlink);
  process.on('SIGUSR2', handle.link);
  try {
    printJson({ ready: true, ...attachment.status() });
    await attachment.whenVmEnds(signal);
    printJson({ event: 'vm-ended' });
  } catch (e) {
    // asked to end: that is how this command ends when all went right
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
  } finally {
    process.off('SIGURG', handle.churn);
    process.off('SIGUSR1', handle.unlink);
    process.off('SIGUSR2', handle.link);
    watching.abort(new Error('the command ends'));
    await ends;
  }
}

function baseSpec(o: TargetOptions & { arenaMib: number }): AttachSpec {
  return {
    qmpPath: o.qmp,
    pid: o.pid,
    arenaBytes: o.arenaMib << 20,
    hook: 'npf',
    qmpTimeoutMs: 30_000,
    unplugTimeoutMs: 30_000,
  };
}

async function stats(options: TargetOptions & { hook: KvmHook; json?: boolean }): Promise<void> {
  const [{ HostDevice }, { formatStats }] = await Promise.all([
    import('../../host/device.ts'),
    import('../../host/stats.ts'),
  ]);
  const device = HostDevice.open();
  try {
    const found = device.stats(await targetPid(options), options.hook);
    if (options.json) printJson(found);
    else writeOut(`${formatStats(found)}\n`);
  } finally {
    device.close();
  }
}

async function pin(options: { qmp: string; cpus: string; json?: boolean }): Promise<void> {
  const [{ QmpClient }, { parseCpuList, pinVcpus }] = await Promise.all([
    import('../../qmp/client.ts'),
    import('../../qmp/pin.ts'),
  ]);
  const cpus = parseCpuList('--cpus', options.cpus);
  const qmp = await QmpClient.connect(options.qmp);
  try {
    const pinned = await pinVcpus(qmp, cpus);
    if (options.json) printJson({ pinned });
    else for (const p of pinned) writeOut(`vCPU ${p.vcpu} (thread ${p.thread}): CPU ${p.cpu}\n`);
  } finally {
    qmp.close();
  }
}

async function targetPid(options: TargetOptions): Promise<number> {
  if (options.pid !== undefined) return options.pid;
  if (options.qmp !== undefined) return (await import('../../host/qemu.ts')).qemuBehind(options.qmp);
  const { HyperturtleError } = await import('../../core/errors.ts');
  throw new HyperturtleError('HT_USAGE', 'say which VM: --qmp SOCKET or --pid NUMBER');
}

async function run(options: RunOptions): Promise<void> {
  const [{ Attachment }, { answerOf, parseCases }, { readInput, writeOutput }] = await Promise.all([
    import('../../host/attach.ts'),
    import('../../host/contexts.ts'),
    import('../../core/files.ts'),
  ]);
  const cases = options.contexts
    ? parseCases(readInput(options.contexts, 'give a JSON file of contexts').toString('utf8'))
    : [[{}]];
  const content = options.arenaFrom
    ? readInput(options.arenaFrom, 'give the content of an arena', 2 ** 30)
    : new Uint8Array();
  const spec = { ...baseSpec(options), ownVm: true, programPath: options.program };
  const size = spec.arenaBytes;
  const attachment = await Attachment.open(spec);
  try {
    const arena = attachment.openArena();
    try {
      const contents: Uint8Array[] = [];
      const results = cases.map((contexts, i) => {
        arena.write(0, content.subarray(i * size, (i + 1) * size));
        const answers = contexts.map((context) => {
          const r = attachment.run({ hook: 'npf', repeat: options.repeat, context });
          return { ...answerOf(r.context), nsPerRun: r.nsPerRun };
        });
        if (options.arenaTo) contents.push(arena.read(0, size));
        return answers;
      });
      if (options.arenaTo) writeOutput(options.arenaTo, Buffer.concat(contents));
      printJson({ repeat: options.repeat, results });
    } finally {
      arena.close();
    }
  } finally {
    await attachment.close();
  }
}
