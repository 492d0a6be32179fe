/**
 * One L2 of a lab, from its start to its end. Its launcher runs in L1; commands go over its console port, which
 * reaches this process through L1's and L0's QEMU with none of our programs in between. While a phase is measured
 * nothing here polls.
 */
import { L2Shell } from '../lab/l2-shell.ts';
import { formatNic } from './l2-spec.ts';
import type { L2Nic } from './l2-spec.ts';
import type { L2Status } from '../guest/device.ts';
import type { RamKind } from '../guest/vmm/arguments.ts';
import { HyperturtleError } from '../core/errors.ts';
import { sleep } from '../core/wait.ts';
import { kernelArgs } from '../lab/init-scripts.ts';
import type { Lab } from '../lab/lab.ts';
import type { Job, Level } from '../lab/levels.ts';
import { PORT } from '../lab/machine.ts';
import { jobSays } from './acceleration.ts';

export interface L2SessionSpec {
  name: string;
  ram: RamKind;
  memMib: number;
  /** Kernel arguments beyond `kernelArgs`. */
  append: string;
  /** Default: those of the lab's levels, without which a boot may take minutes, or end at a timer that was measured too slow. */
  kernelArgs?: string;
  machine: string;
  /** Default: its launcher. */
  registeredBy?: 'self' | 'agent';
  /** Console port, 0 to 3. */
  port: number;
  ramFile?: string;
  nics?: readonly L2Nic[];
  /** See L2Spec. */
  plugMib?: number;
}

export interface L2Session {
  shell: L2Shell;
  /** From the VMM's `cont` to the opening of the console port, by L1's clock. */
  bootMs: number;
  /** What L1's module knows of it now. Throws HT_TIMEOUT; HT_COMMAND_FAILED when it is not registered by its launcher. */
  status: () => Promise<L2Status>;
}

const START_TIMEOUT_MS = 120_000;
/** 27 s where a CPU is free for it; several times that beside other work, which takes its time and leaves it its ticks. */
const BOOT_TIMEOUT_MS = 480_000;
const STOP_TIMEOUT_MS = 60_000;
const SLOW_BOOT_MS = 60_000;
const WATCH_MS = 5000;

/** All arguments of its kernel, as results tell them. */
export const l2KernelArguments = (spec: Pick<L2SessionSpec, 'append' | 'kernelArgs'>): string =>
  `${spec.kernelArgs ?? kernelArgs(2)} ${spec.append}`.trim();

function launcher(spec: L2SessionSpec, console: readonly string[]): string[] {
  return [
    ...['/payload/bin/hyperturtle', 'guest', 'l2', 'run', '--name', spec.name, '--ram', spec.ram],
    ...['--mem-mib', String(spec.memMib), '--machine', spec.machine, '--append', l2KernelArguments(spec)],
    ...['--registered-by', spec.registeredBy ?? 'self'],
    ...['--boot-timeout-s', String(BOOT_TIMEOUT_MS / 1000)],
    ...(spec.ramFile === undefined ? [] : ['--ram-file', spec.ramFile]),
    ...(spec.nics ?? []).flatMap((n) => ['--nic', formatNic(n)]),
    ...(spec.plugMib === undefined ? [] : ['--plug-mib', String(spec.plugMib)]),
    ...console,
  ];
}

/** Starts an L2, waits until it is up, runs `body`, ends it. `onRunning` is called just after it was continued. */
export async function withL2<T>(
  lab: Pick<Lab, 'l1' | 'l2Channel'>,
  spec: L2SessionSpec,
  body: (session: L2Session) => Promise<T>,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<T> {
  const { signal } = options;
  const channel = lab.l2Channel(spec.port);
  return channel.use(
    async (connection) => {
      const shell = new L2Shell(connection);
      const job = await lab.l1.spawn(launcher(spec, ['--port', `/dev/virtio-ports/${PORT.l2(spec.port)}`]), {
        signal,
      });
      try {
        await jobSays(job, /"event":"running"/, `start of L2 ${spec.name}`, START_TIMEOUT_MS, signal);
        await whenUp(shell, job, spec.name, signal);
        const up = await jobSays(job, /"event":"up","bootMs":([\d.]+)/, 'boot time', 120_000, signal);
        return await body({ shell, bootMs: Number(up[1]), status: statusOf(job) });
      } finally {
        await job.kill('TERM');
        await job.wait({ timeoutMs: STOP_TIMEOUT_MS });
      }
    },
    { timeoutMs: 10_000, signal },
  );
}

function statusOf(job: Job): L2Session['status'] {
  let asked = 0;
  return async () => {
    await job.kill('URG'); // its QEMU gets it too, and ignores it
    const said = new RegExp(`"event":"status","n":${++asked},"l2":(.*)}`);
    const [, status = 'null'] = await jobSays(job, said, 'status', 60_000, undefined);
    const l2 = JSON.parse(status) as L2Status | null;
    if (l2 === null)
      throw new HyperturtleError('HT_COMMAND_FAILED', 'this L2 is not registered by its launcher');
    return l2;
  };
}

/**
 * A failed boot shows in the launcher's log, which is asked for when it takes long: often enough to say soon that the launcher has
 * ended, and too late to disturb a boot that is measured.
 */
async function whenUp(
  shell: L2Shell,
  job: Job,
  name: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const over = new AbortController();
  const either = signal ? AbortSignal.any([signal, over.signal]) : over.signal;
  const up = shell.whenUp({ timeoutMs: BOOT_TIMEOUT_MS, signal: either });
  const ended = (async () => {
    await sleep(SLOW_BOOT_MS, either);
    for (;;) {
      const status = await job.status();
      if (status !== undefined) return status;
      await sleep(WATCH_MS, either);
    }
  })();
  ended.catch(() => {}); // aborted: it was up first
  up.catch(() => {}); // ended: that is what is told
  try {
    const status = await Promise.race([up.then(() => undefined), ended]);
    if (status === undefined) return;
    throw new HyperturtleError('HT_COMMAND_FAILED', `L2 ${name}: its launcher ended with status ${status}`);
  } catch (e) {
    await jobSays(job, /"event":"up"/, `boot of L2 ${name}`, 2_000, signal);
    throw e;
  } finally {
    over.abort();
  }
}

/** Boots the same guest on another level (L0: not nested) and gives the boot time; nothing else is done in it. */
export async function bootOnly(
  level: Level,
  spec: Omit<L2SessionSpec, 'port'>,
  signal?: AbortSignal,
): Promise<number> {
  const job = await level.spawn(launcher({ ...spec, port: 0 }, []), { signal });
  try {
    const up = await jobSays(
      job,
      /"event":"up","bootMs":([\d.]+)/,
      `boot of ${spec.name} in ${level.name}`,
      BOOT_TIMEOUT_MS,
      signal,
    );
    return Number(up[1]);
  } finally {
    await job.kill('TERM');
    await job.wait({ timeoutMs: STOP_TIMEOUT_MS });
  }
}
