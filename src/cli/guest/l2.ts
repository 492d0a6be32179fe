/** `hyperturtle guest l2 run`: one L2 in the foreground, for the benchmarks and for trying things. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { L2Spec } from '../../testbed/l2-spec.ts';
import type { RamKind } from '../../guest/vmm/arguments.ts';
import { integer, printJson } from '../shared/values.ts';

interface RunOptions {
  name: string;
  memMib: number;
  ram: string;
  kernel: string;
  initrd?: string | false;
  append: string;
  machine: string;
  firmware: string;
  port?: string;
  socket?: string;
  qemu: string;
  ramFile?: string;
  groupMax: number;
  registeredBy: 'self' | 'agent';
  bootTimeoutS: number;
  nic: string[];
  plugMib: number;
}

/** Adds `l2` to the `guest` command. */
export function registerL2Commands(guest: Command): void {
  const l2 = guest.command('l2', { hidden: true }).description('nested guests (L2) for tests and benchmarks');
  l2.command('run')
    .description('start an L2, print a line of JSON when it runs and when it is up; ends it at SIGTERM')
    .requiredOption('--name <text>', 'names its files')
    .option('--mem-mib <number>', 'memory', integer('--mem-mib', 2, 1 << 20), 256)
    .option('--ram <kind>', 'tmpfs, tmpfs-prealloc, turtlefs or anonymous', 'tmpfs')
    .option('--kernel <file>', 'ELF kernel', '/payload/l2/vmlinux')
    .option('--initrd <file>', 'its initramfs', '/payload/l2/initramfs.cpio')
    .option('--no-initrd', 'the kernel needs none')
    .option('--append <arguments>', 'kernel command line', '')
    .option('--machine <type>', "QEMU's machine type", 'pc')
    .option('--firmware <file>', "firmware of QEMU; 'default': SeaBIOS", 'qboot.rom')
    .option('--port <device>', 'character device that carries its console')
    .option('--socket <path>', 'unix socket to make for its console')
    .option('--qemu <program>', 'VMM', 'qemu-system-x86_64')
    .option('--ram-file <name>', 'give its RAM file a name; removed at the end')
    .option(
      '--group-max <pages>',
      'most pages mapped by one fault; 0: the default',
      integer('--group-max', 0, 64),
      0,
    )
    .addOption(
      new Option('--registered-by <who>', 'an L2 on turtlefs: this command, or the agent that runs here')
        .choices(['self', 'agent'])
        .default('self'),
    )
    .option(
      '--nic <what>',
      'vfio:0000:08:00.0 or tap:NAME:MAC[:vhost]; may be given several times',
      (text: string, all: string[]) => [...all, text],
      [] as string[],
    )
    .option('--plug-mib <number>', 'virtio-mem, and as much by DIMMs', integer('--plug-mib', 0, 4096), 0)
    .option('--boot-timeout-s <number>', 'seconds for userspace', integer('--boot-timeout-s', 1, 3600), 300)
    .action(run);
  registerOthers(l2);
}

/** Guests without a kernel, for what one command measures. */
function registerOthers(l2: Command): void {
  l2.command('exits')
    .description('run the guest that does nothing but exit (c/l2/exits_guest.bare.c) and print what it says')
    .requiredOption('--name <text>', 'names its files')
    .requiredOption('--steps <text>', 'what it does, such as "cpuid:1:0:1000 dump"; numbers in hexadecimal')
    .option('--ram <kind>', 'turtlefs (registered), or tmpfs, anonymous', 'turtlefs')
    .option('--mem-mib <number>', 'memory', integer('--mem-mib', 8, 3000), 32)
    .option('--kernel <file>', 'the guest', '/payload/l2/programs/exits_guest')
    .option('--qemu <program>', 'VMM', 'qemu-system-x86_64')
    .addOption(
      new Option('--registered-by <who>', 'on turtlefs: this command, or the agent that runs here')
        .choices(['self', 'agent'])
        .default('self'),
    )
    .option('--timeout-s <number>', 'seconds for its steps', integer('--timeout-s', 1, 3600), 120)
    .action(exitsL2);
  l2.command('churn')
    .description('create, run and destroy many small L2s on turtlefs; look for what they left')
    .option('--cycles <number>', 'how many', integer('--cycles', 1, 1_000_000), 200)
    .option('--parallel <number>', 'at a time', integer('--parallel', 1, 64), 4)
    .option('--mem-mib <number>', 'memory of each', integer('--mem-mib', 24, 3000), 32)
    .option('--kernel <file>', 'the guest', '/payload/l2/programs/touch_guest')
    .option('--qemu <program>', 'VMM', 'qemu-system-x86_64')
    .action(churnL2);
}

interface ExitsOptions {
  name: string;
  steps: string;
  ram: string;
  memMib: number;
  kernel: string;
  qemu: string;
  registeredBy: 'self' | 'agent';
  timeoutS: number;
}

async function exitsL2(o: ExitsOptions): Promise<void> {
  const [{ runExitsGuest }, { abortOnSignals }] = await Promise.all([
    import('../../testbed/l2-exits.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const signals = abortOnSignals();
  try {
    printJson({
      lines: await runExitsGuest({ ...o, timeoutMs: o.timeoutS * 1000, signal: signals.signal }),
    });
  } finally {
    signals.dispose();
  }
}

async function churnL2(o: {
  cycles: number;
  parallel: number;
  memMib: number;
  kernel: string;
  qemu: string;
}): Promise<void> {
  const [{ churn }, { abortOnSignals }] = await Promise.all([
    import('../../testbed/l2-churn.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const signals = abortOnSignals();
  try {
    const result = await churn({
      ...o,
      timeoutMs: 180_000,
      signal: signals.signal,
      onCycle: (done) => {
        if (done % 10 === 0) printJson({ event: 'cycles', done });
      },
    });
    printJson(result);
  } finally {
    signals.dispose();
  }
}

/** Throws HT_USAGE. */
async function specOf(o: RunOptions): Promise<L2Spec> {
  const [{ RAM_KINDS }, { l2Files, parseNic }, { HyperturtleError }] = await Promise.all([
    import('../../guest/vmm/arguments.ts'),
    import('../../testbed/l2-spec.ts'),
    import('../../core/errors.ts'),
  ]);
  const ram = RAM_KINDS.find((k): k is RamKind => k === o.ram);
  if (!ram)
    throw new HyperturtleError(
      'HT_USAGE',
      `--ram: one of ${RAM_KINDS.join(', ')} expected, '${o.ram}' found`,
    );
  if (o.port !== undefined && o.socket !== undefined)
    throw new HyperturtleError('HT_USAGE', 'give --port or --socket for the console, not both');
  return {
    name: o.name,
    memMib: o.memMib,
    ram,
    kernel: o.kernel,
    initrd: o.initrd === false ? undefined : o.initrd,
    append: o.append,
    machine: o.machine,
    firmware: o.firmware === 'default' ? undefined : o.firmware,
    console:
      o.port === undefined
        ? { kind: 'socket', path: o.socket ?? `${l2Files(o.name).dir}/console` }
        : { kind: 'device', path: o.port },
    qemu: o.qemu,
    ramFileName: o.ramFile,
    nics: o.nic.map(parseNic),
    plugMib: o.plugMib,
  };
}

async function run(o: RunOptions): Promise<void> {
  const [{ L2Machine }, { isHyperturtleError }, { abortOnSignals }] = await Promise.all([
    import('../../testbed/l2-machine.ts'),
    import('../../core/errors.ts'),
    import('../../core/lifecycle.ts'),
  ]);
  const spec = await specOf(o);
  const signals = abortOnSignals();
  try {
    const l2 = await L2Machine.start(spec, {
      groupMax: o.groupMax,
      registeredBy: o.registeredBy,
      signal: signals.signal,
    });
    try {
      printJson({ event: 'running', name: o.name, qemuPid: l2.qemuPid });
      const bootMs = await l2.whenUp({ timeoutMs: o.bootTimeoutS * 1000, signal: signals.signal });
      await l2.plugNics({ timeoutMs: o.bootTimeoutS * 1000, signal: signals.signal });
      let asked = 0;
      process.on('SIGURG', () => printJson({ event: 'status', n: ++asked, l2: l2.status() ?? null }));
      printJson({ event: 'up', bootMs });
      const interrupted = new Promise<'interrupted'>((resolve) => {
        signals.signal.addEventListener('abort', () => resolve('interrupted'), { once: true });
      });
      const how = await Promise.race([interrupted, l2.ended]);
      printJson({
        event: how === 'interrupted' ? 'stopping' : 'ended',
        status: how,
        l2: l2.status() ?? null,
      });
    } finally {
      await l2.stop();
    }
    printJson({ event: 'stopped' });
  } catch (e) {
    // asked to end while it booted
    if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
    printJson({ event: 'stopped' });
  } finally {
    signals.dispose();
  }
}
