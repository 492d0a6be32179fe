/**
 * Turns the hyperupcall on in a lab: modules, arena, program and file system, undone in reverse. The programs of
 * L0 and L1 run from the lab's payload, as a user would run them.
 */
import { HyperturtleError } from '../core/errors.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { waitFor } from '../core/wait.ts';
import { HTG_INFO } from '../kernel/guest.ts';
import type { HtgInfo } from '../kernel/guest.ts';
import type { KvmHook } from '../kernel/host.ts';
import type { FillCounts } from '../kernel/npf.ts';
import { pollMs } from '../lab/guest-agent.ts';
import type { Lab } from '../lab/lab.ts';
import { run, runScript } from '../lab/levels.ts';
import type { Job, Level } from '../lab/levels.ts';
import { L1_RUN } from '../lab/machine.ts';
import { TURTLEFS_DIR } from '../guest/vmm/arguments.ts';

/** How often `hyperturtle host attach` unlinks and links at SIGURG (src/cli/host/command.ts). */
const CHURN_LINKS = 1000;
/** Node starts in seconds under emulation, in minutes by Bochs on a busy machine. */
const START_MS = 300_000;

export const CLI = '/payload/bin/hyperturtle';
/** c/l2/guest_info.c */
const GUEST_INFO = '/payload/l2/programs/guest_info';

/** What benchmarks need of either way to accelerate: by hand (below), or by daemon and agent (managed.ts). */
export interface Accelerated {
  /** Vanilla is measured with no program linked: nothing of HyperTurtle runs in its faults. */
  setLinked(linked: boolean, signal?: AbortSignal): Promise<void>;
  hookCounts(signal?: AbortSignal): Promise<HookCounts>;
  /** Who registers nested guests on turtlefs. */
  readonly registeredBy: 'self' | 'agent';
  off(): Promise<void>;
}

export interface AccelerateOptions {
  arenaMib: number;
  /** Default: npf. */
  hook?: KvmHook;
  /** In L0; default: the shipped one for faults. */
  program?: string;
  /** As `--option` has them. */
  options?: readonly string[];
  /** 2 MiB frames that L1 keeps. */
  largeFrames?: LargeFrames;
  signal?: AbortSignal | undefined;
}

/**
 * 2 MiB frames that L1 keeps; auto: as free memory allows. Where nothing is said, none, so that all pages are of 4 KiB:
 * tests of those count them.
 */
export type LargeFrames = number | 'auto';

export type GuestStatus = HtgInfo;

/** What `hyperturtle host attach` prints for a signal. */
interface AttachEvent {
  linked: boolean;
  stats: HookCounts;
}

/** Counts of src/host/stats.ts, over the life of the attachment. */
export interface HookCounts {
  runs: number;
  /** Faults answered without L1. */
  handled: number;
  /** Entries written into L1's tables. */
  entries: number;
  /** Why faults were passed to L1, by name. */
  reasons: Record<string, number>;
  /** Groups that were filled in at once, by the npf hook. */
  fills?: FillCounts;
}

/** By hand, as docs/lab.md tells it: `hyperturtle host attach` in L0, no channel. */
export class Acceleration implements Accelerated, AsyncDisposable {
  readonly registeredBy = 'self';
  readonly #lab: Lab;
  readonly #undo = new CleanupStack();
  /** `hyperturtle host attach` in L0. */
  #attach: Job | undefined;
  #linked = true;

  private constructor(lab: Lab) {
    this.#lab = lab;
  }

  static async on(lab: Lab, options: AccelerateOptions): Promise<Acceleration> {
    const a = new Acceleration(lab);
    await a.#undo.onFailure(() => a.#on(options));
    return a;
  }

  async #on(options: AccelerateOptions): Promise<void> {
    const { l0, l1 } = this.#lab;
    const { signal } = options;
    await insmod(l0, 'hyperturtle_host', signal);
    this.#undo.add('host module', () => rmmod(l0, 'hyperturtle_host'));
    this.#undo.add('attachment', () => this.signalAttachment('TERM'));
    await this.attach(options);
    await loadGuestModule(l1, this.#undo, options.largeFrames, signal);
    await runScript(l1, `mkdir -p ${TURTLEFS_DIR} && mount -t turtlefs none ${TURTLEFS_DIR}`, { signal });
    this.#undo.add('turtlefs', () => run(l1, ['umount', TURTLEFS_DIR]).then(() => {}));
  }

  /** Starts L0's command; again after the one before has ended, however it did. */
  async attach(o: AccelerateOptions): Promise<void> {
    const { signal, program = '/payload/bpf/npf.bpf.o', hook = 'npf', options = [] } = o;
    this.#attach = await this.#lab.l0.spawn(
      [
        ...[CLI, 'host', 'attach', '--qmp', L1_RUN.qmpSocket, '--arena-mib', String(o.arenaMib)],
        ...['--program', program, '--hook', hook, '--bus', 'arena0'],
        ...options.flatMap((option) => ['--option', option]),
      ],
      { signal },
    );
    this.#linked = true;
    await jobSays(this.#job(), /"ready":true/, 'hyperturtle host attach', START_MS, signal);
  }

  /** Ends L0's command (TERM: it undoes all; KILL: the kernel does), and returns when it has ended. */
  async signalAttachment(signal: 'TERM' | 'KILL'): Promise<void> {
    await this.#attach?.kill(signal);
    await this.#attach?.wait({ timeoutMs: START_MS });
  }

  guestStatus(signal?: AbortSignal): Promise<GuestStatus> {
    return guestStatus(this.#lab.l1, signal);
  }

  async setLinked(linked: boolean, signal?: AbortSignal): Promise<void> {
    if (linked !== this.#linked) await this.#ask(linked, signal);
    this.#linked = linked;
  }

  /** Puts the program in its own place while it is linked, without a gap. */
  async replace(signal?: AbortSignal): Promise<void> {
    await this.#ask(true, signal);
    this.#linked = true;
  }

  async hookCounts(signal?: AbortSignal): Promise<HookCounts> {
    return (await this.#ask(this.#linked, signal)).stats;
  }

  /** Unlinks and links the program so many times, as fast as the module does it; ends linked. */
  async churnLinks(times: number): Promise<void> {
    for (let done = 0; done < times; done += CHURN_LINKS) {
      const lines = (await this.#job().output()).split('"event":"churned"').length;
      await this.#job().kill('URG');
      await waitFor(
        `${CHURN_LINKS} links`,
        async () =>
          (await this.#job().output()).split('"event":"churned"').length > lines ? true : undefined,
        { timeoutMs: 120_000 },
      );
    }
    this.#linked = true;
  }

  /** The attached process answers a signal with a line, much sooner than a new process would. */
  async #ask(linked: boolean, signal: AbortSignal | undefined): Promise<AttachEvent> {
    const lines = async (): Promise<string[]> => (await this.#job().output()).split('\n').slice(0, -1);
    const before = (await lines()).length;
    await this.#job().kill(linked ? 'USR2' : 'USR1');
    const answer = await waitFor(
      `hyperturtle host attach to ${linked ? 'link' : 'unlink'}`,
      async () => (await lines())[before],
      { timeoutMs: 120_000, signal },
    );
    const event = JSON.parse(answer) as Partial<AttachEvent>;
    if (event.linked !== linked || event.stats === undefined)
      throw new HyperturtleError('HT_COMMAND_FAILED', `hyperturtle host attach: ${answer.slice(0, 300)}`);
    return event as AttachEvent;
  }

  #job(): Job {
    if (!this.#attach) throw new HyperturtleError('HT_USAGE', 'nothing is attached');
    return this.#attach;
  }

  async off(): Promise<void> {
    await this.#undo.run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.off();
  }
}

/** As `hyperturtle guest status` has it, by a program that starts at once. Throws HT_COMMAND_FAILED without the module. */
export function guestStatus(l1: Level, signal?: AbortSignal): Promise<GuestStatus> {
  return guestInfo(l1, [], signal);
}

/** 1..64: most pages that one fault may map, for all L2s that were not registered with a number of their own. */
export async function setGroupMax(l1: Level, pages: number, signal?: AbortSignal): Promise<void> {
  await guestInfo(l1, [String(pages)], signal);
}

async function guestInfo(
  l1: Level,
  args: readonly string[],
  signal: AbortSignal | undefined,
): Promise<GuestStatus> {
  const r = await l1.exec([GUEST_INFO, ...args], { timeoutMs: START_MS, signal });
  if (r.status !== 0)
    throw new HyperturtleError(
      'HT_COMMAND_FAILED',
      `${l1.name}: guest_info: status ${r.status}: ${r.stderr.toString('utf8').trim()}`,
    );
  return HTG_INFO.decode(r.stdout);
}

/** Microseconds of a fault's exit in which L0 fills in the rest of its group; 0: it does not. Gives what they were. */
export async function setFillUs(l0: Level, us: number | string, signal?: AbortSignal): Promise<string> {
  const file = '/sys/module/hyperturtle_host/parameters/fill_us';
  return (await runScript(l0, `cat ${file}; echo ${us} > ${file}`, { signal })).trim();
}

/** Longest that the module takes to see that there is free memory again: it looks every five seconds. */
const LARGE_SETTLED_POLLS = 14;

/** With 2 MiB frames that no file has; auto: as many as it wants, or no more than before for seven seconds. Throws HT_TIMEOUT. */
export async function whenLargePoolFull(l1: Level, frames: LargeFrames, signal?: AbortSignal): Promise<void> {
  const seen: number[] = [];
  await waitFor(
    'a full pool of 2 MiB frames',
    async () => {
      const { large_level: level, large_frames: most } = await guestStatus(l1, signal);
      seen.push(level);
      if (frames !== 'auto') return level >= frames ? true : undefined;
      const before = seen.at(-LARGE_SETTLED_POLLS);
      return level >= most || (before !== undefined && before >= level) ? true : undefined;
    },
    { timeoutMs: 120_000, intervalMs: 500, signal },
  );
}

export async function insmod(
  level: Level,
  module: string,
  signal: AbortSignal | undefined,
  parameters: readonly string[] = [],
): Promise<void> {
  await run(level, ['insmod', `/payload/modules/${module}.ko`, ...parameters], { signal });
}

/** Unloaded again by `undo`. */
export async function loadGuestModule(
  l1: Level,
  undo: CleanupStack,
  largeFrames: LargeFrames = 0,
  signal?: AbortSignal,
): Promise<void> {
  await insmod(l1, 'hyperturtle_guest', signal, [
    `large_frames=${largeFrames === 'auto' ? -1 : largeFrames}`,
  ]);
  undo.add('guest module', () => rmmod(l1, 'hyperturtle_guest'));
}

/** Files of a process that has just ended are closed a moment later: until then the module is in use. */
export async function rmmod(level: Level, module: string): Promise<void> {
  await waitFor(
    `${level.name}: unloading ${module}`,
    async () => {
      const r = await level.exec(['rmmod', module]);
      return r.status === 0 ? true : undefined;
    },
    { timeoutMs: 60_000, intervalMs: 250 },
  );
}

/** Waits until the output of a job matches. Throws HT_COMMAND_FAILED with its output when it ends before. */
export async function jobSays(
  job: Job,
  pattern: RegExp,
  what: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<RegExpExecArray> {
  return waitFor(
    what,
    async () => {
      const ended = await job.status();
      const output = await job.output();
      const match = pattern.exec(output);
      if (match) return match;
      if (ended !== undefined)
        throw new HyperturtleError(
          'HT_COMMAND_FAILED',
          `${what}: ended with status ${ended}: ${output.trim().slice(-1000)}`,
        );
      return undefined;
    },
    // four requests to the level's agent each time
    { timeoutMs, intervalMs: (elapsedMs) => Math.max(100, pollMs(elapsedMs)), signal },
  );
}
