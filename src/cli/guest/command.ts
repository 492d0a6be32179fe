/** `hyperturtle guest ...`: commands of L1, the guest hypervisor. */
import type { Command } from 'commander';
import { writeOut } from '../../core/output.ts';
import { withoutUndefined } from '../../core/defined.ts';
import { leftOutText } from '../../guest/left-out.ts';
import { HTG_MEMCG } from '../../kernel/guest.ts';
import type { HtgInfo, HtgPool } from '../../kernel/guest.ts';
import { integer, printJson } from '../shared/values.ts';

interface SetOptions {
  enable?: boolean;
  disable?: boolean;
  groupMax?: number;
  poolLow?: number;
  poolHigh?: number;
  exact?: boolean;
}

interface RegisterOptions {
  pid: number;
  name?: string;
  groupMax: number;
  framesLimit: number;
}

/** `guest status|set|register`. */
export function registerModule(guest: Command): void {
  guest
    .command('status')
    .description('arena, pool and counters of the module')
    .option('--json', 'one line of JSON')
    .action(status);

  guest
    .command('set')
    .description('change settings of the module')
    .option('--enable', 'let programs answer faults')
    .option('--disable', 'make every program pass')
    .option('--group-max <pages>', 'most pages mapped by one fault', integer('--group-max', 1, 64))
    .option('--pool-low <frames>', 'refill the pool below this', integer('--pool-low', 0, 2 ** 31))
    .option('--pool-high <frames>', 'refill the pool up to this', integer('--pool-high', 0, 2 ** 31))
    .option('--exact', 'see the first use of every page that is given ahead (slower): for measuring')
    .option('--no-exact', 'do not, and let L0 fill in whole groups at once: the default')
    .action(set);

  guest
    .command('register')
    .description('register a nested guest; runs until SIGTERM or until that guest ends')
    .addHelpText(
      'after',
      '\nSIGURG prints a line of JSON with its counters and what its memory cgroup is charged.',
    )
    .requiredOption('--pid <number>', 'process that runs the nested guest', integer('--pid', 1, 2 ** 22))
    .option('--name <text>', "name in listings; default: the VMM's -name, or pid-N")
    .option(
      '--group-max <pages>',
      'most pages mapped by one fault; 0: the default',
      integer('--group-max', 0, 64),
      0,
    )
    .option(
      '--frames-limit <n>',
      'most frames taken for it; 0: all its RAM',
      integer('--frames-limit', 0, 2 ** 31),
      0,
    )
    .action(registerL2);
}

async function status(options: { json?: boolean }): Promise<void> {
  const { GuestDevice } = await import('../../guest/device.ts');
  const device = GuestDevice.open();
  try {
    const info = device.info();
    const pools = device.pools();
    if (options.json) printJson({ ...info, pools });
    else writeOut(`${format(info, pools)}\n`);
  } finally {
    device.close();
  }
}

function format(i: HtgInfo, pools: readonly HtgPool[]): string {
  if (i.arena_bound === 0) return 'no arena: the host has not attached this machine';
  return [
    `arena ${i.arena_bytes >> 20} MiB, ${i.enabled ? 'enabled' : 'disabled'}, groups of up to ${i.group_max} pages, ${i.l2_count} nested guests registered`,
    `pool ${i.pool_level} of ${i.pool_entries} frames (refill below ${i.pool_low}, up to ${i.pool_high}); ${i.refills} refills, ${i.shrunk} given back under pressure`,
    ...(pools.length > 1 ? [`of these ${pools.map((p) => `${p.level} on node ${p.node}`).join(', ')}`] : []),
    `index ${i.index_used} of ${i.index_words} pages in files`,
    ...(i.large_frames === 0 ? [] : [largeFrames(i)]),
    `frames ${i.frames_allocated} allocated, ${i.frames_freed} freed, ${HTG_MEMCG[i.memcg] === 'charged' ? 'charged to the memory cgroups of the VMMs' : 'counted by no memory cgroup'}`,
    `faults here ${i.faults} (${i.faults_found} found a frame, ${i.faults_lost} lost the race), ${i.grace_periods} grace periods (${i.interrupted} CPUs interrupted for single L2s)`,
  ].join('\n');
}

function largeFrames(i: HtgInfo): string {
  const level = `2 MiB frames ${i.large_level} of ${i.large_frames}`;
  return i.large_auto === 0
    ? level
    : `${level} at most, as free memory allows; ${i.large_back} pages of such that nobody used were given back`;
}

async function set(options: SetOptions): Promise<void> {
  const [{ GuestDevice }, { HyperturtleError }] = await Promise.all([
    import('../../guest/device.ts'),
    import('../../core/errors.ts'),
  ]);
  if (options.enable && options.disable)
    throw new HyperturtleError('HT_USAGE', 'give --enable or --disable, not both');
  const device = GuestDevice.open();
  try {
    const info = device.info();
    const pool =
      options.poolLow === undefined && options.poolHigh === undefined
        ? undefined
        : { low: options.poolLow ?? info.pool_low, high: options.poolHigh ?? info.pool_high };
    device.set({
      ...(options.enable || options.disable ? { enabled: options.enable === true } : {}),
      ...(options.groupMax === undefined ? {} : { groupMax: options.groupMax }),
      ...(pool ? { pool } : {}),
      ...(options.exact === undefined ? {} : { exact: options.exact }),
    });
    writeOut(`${format(device.info(), device.pools())}\n`);
  } finally {
    device.close();
  }
}

async function registerL2(options: RegisterOptions): Promise<void> {
  const [
    { GuestDevice },
    { takeVm },
    { vmName },
    { noIndexOf },
    { smallText },
    { abortOnSignals, CleanupStack },
    { isHyperturtleError },
  ] = await Promise.all([
    import('../../guest/device.ts'),
    import('../../bpf/kvm.ts'),
    import('../../guest/agent/vms.ts'),
    import('../../guest/agent/no-index.ts'),
    import('../../guest/small.ts'),
    import('../../core/lifecycle.ts'),
    import('../../core/errors.ts'),
  ]);
  const signals = abortOnSignals();
  const undo = new CleanupStack();
  try {
    const device = GuestDevice.open();
    undo.add('guest device', () => device.close());
    const taken = takeVm(options.pid);
    undo.add('process descriptor', () => taken.process.close());
    undo.add('vm descriptor', () => taken.vm.close());
    const l2 = device.register({
      vm: taken.vm,
      name: options.name ?? vmName(options.pid),
      framesLimit: options.framesLimit,
      groupMax: options.groupMax,
    });
    undo.add('registration', () => l2.close());
    // or this process would keep the VM alive after its QEMU
    taken.vm.close();
    const first = l2.status();
    const problemOf = (s: typeof first): { problem?: string; note?: string } => {
      const { index_words: words, index_used: used } = device.info();
      const problem = leftOutText(s) ?? noIndexOf(options.pid, s, { words, used });
      return withoutUndefined({ problem, note: smallText(s) });
    };
    const say = (): void => {
      const now = l2.status();
      printJson({ event: 'status', ...now, ...problemOf(now) });
    };
    process.on('SIGURG', say);
    undo.add('signal', () => void process.off('SIGURG', say));
    printJson({ registered: true, pid: options.pid, ...first, ...problemOf(first) });
    try {
      await l2.whenGone(signals.signal);
      printJson({ event: 'gone', ...l2.status() });
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_INTERRUPTED')) throw e;
      printJson({ event: 'unregistered', ...l2.status() });
    }
  } finally {
    await undo.run();
    signals.dispose();
  }
}
