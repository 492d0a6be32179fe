/**
 * The hyperupcall as users have it: a daemon in L0, an agent in L1, and L1 asking for its program over the control
 * channel. Nested guests on turtlefs are registered by the agent. Undone in reverse.
 */
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { CleanupStack } from '../core/lifecycle.ts';
import { waitFor } from '../core/wait.ts';
import { FAST_FIRMWARE } from './l2-spec.ts';
import { TURTLEFS_DIR, machineOption } from '../guest/vmm/arguments.ts';
import type { Lab } from '../lab/lab.ts';
import { run, runScript } from '../lab/levels.ts';
import type { Job, Level } from '../lab/levels.ts';
import { FIRST_SEAT } from '../lab/machine.ts';
import type { L1Seat } from '../lab/machine.ts';
import { CLI, guestStatus, insmod, jobSays, loadGuestModule, rmmod } from './acceleration.ts';
import type { Accelerated, HookCounts, LargeFrames } from './acceleration.ts';

const CONFIG = '/run/hyperturtle-host.yaml';
export const HOST_METRICS_PORT = 9470;
const GUEST_CONFIG = '/run/hyperturtle-guest.yaml';
const GUEST_METRICS_PORT = 9471;
export const NPF = '/payload/bpf/npf.bpf.o';
/** Node, schemas and all start in seconds under emulation, more of them on a busy machine. */
const START_MS = 300_000;
const COMMAND_MS = 300_000;

/** One VM of the daemon's configuration. */
export interface ManagedVmSpec {
  name: string;
  seat: L1Seat;
  arenaMib: number;
  /** Lines of YAML under the VM, such as `quotas: {objects: 2}`. */
  more?: readonly string[];
}

/** `more`: further lines at the top, such as networks. */
export function hostConfig(vms: readonly ManagedVmSpec[], more: readonly string[] = []): string {
  return [
    vms.length > 0 ? 'vms:' : 'vms: {}',
    ...vms.flatMap(({ name, seat, arenaMib, more }) => [
      `  ${name}:`,
      `    qmp: ${seat.run.daemonQmpSocket}`,
      `    agent: {socket: ${seat.run.agentSocket}}`,
      `    arenaMib: ${arenaMib}`,
      '    bus: arena0',
      ...(more ?? []).map((line) => `    ${line}`),
    ]),
    ...more,
    `metrics: {port: ${HOST_METRICS_PORT}}`,
    'loader: {timeoutMs: 120000}',
    '',
  ].join('\n');
}

/** `hyperturtle host daemon` in L0. */
export class ManagedHost {
  readonly #l0: Level;
  #daemon: Job | undefined;

  readonly #more: readonly string[];

  constructor(l0: Level, more: readonly string[] = []) {
    this.#l0 = l0;
    this.#more = more;
  }

  /** With the module, which `undo` unloads. Of the VMs nothing is left then. */
  async setUp(undo: CleanupStack, vms: readonly ManagedVmSpec[], signal?: AbortSignal): Promise<void> {
    await insmod(this.#l0, 'hyperturtle_host', signal);
    undo.add('host module', () => rmmod(this.#l0, 'hyperturtle_host'));
    await this.start(vms, signal);
    undo.add('daemon', () => this.end('TERM'));
    // for good: their arenas would else wait for the next daemon
    undo.add('VMs', () => this.reconfigure([]));
  }

  /** Returns when it serves. Again after the one before has ended, however it did. */
  async start(vms: readonly ManagedVmSpec[], signal?: AbortSignal): Promise<void> {
    await this.#l0.writeFile(CONFIG, hostConfig(vms, this.#more), { signal });
    this.#daemon = await this.#l0.spawn([CLI, 'host', 'daemon', '--config', CONFIG], { signal });
    await jobSays(this.#daemon, /"started"/, 'hyperturtle host daemon', START_MS, signal);
  }

  async end(signal: 'TERM' | 'KILL'): Promise<void> {
    await this.#daemon?.kill(signal);
    await this.#daemon?.wait({ timeoutMs: 60_000 });
  }

  /** Has these VMs from now on: others are detached, and new ones attached. */
  async reconfigure(vms: readonly ManagedVmSpec[]): Promise<void> {
    await this.#l0.writeFile(CONFIG, hostConfig(vms, this.#more));
    await run(this.#l0, [CLI, 'host', 'reload'], { timeoutMs: COMMAND_MS });
  }

  /** Values of the daemon's measurements of one VM, by name and labels as the exposition has them. */
  async metrics(vm: string, signal?: AbortSignal): Promise<Map<string, number>> {
    return parseMetrics(await metricsOf(this.#l0, HOST_METRICS_PORT, signal), vm);
  }
}

/** A command of busybox: much sooner there than one of our commands, under emulation. */
function metricsOf(level: Level, port: number, signal: AbortSignal | undefined): Promise<string> {
  return runScript(level, `wget -q -O - http://127.0.0.1:${port}/metrics`, { signal });
}

/** `hook_runs{hook="npf"} 12` of `vm` becomes `hook_runs npf` -> 12; of several labels the values, in their order. */
export function parseMetrics(text: string, vm: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split('\n')) {
    const match = /^hyperturtle_host_(\w+)\{(.*)\} (\S+)$/.exec(line);
    if (!match) continue;
    const labels = Array.from(match[2]!.matchAll(/(\w+)="([^"]*)"/g), (m) => [m[1]!, m[2]!] as const);
    if (!labels.some(([k, v]) => k === 'vm' && v === vm)) continue;
    const rest = labels.filter(([k]) => k !== 'vm').map(([, v]) => v);
    found.set([match[1]!, ...rest].join(' '), Number(match[3]));
  }
  return found;
}

/** Pages, and 2 MiB frames, of nested guests. */
export interface L2Memory {
  held: number;
  seen: number;
  kept: number;
  vain: number;
  back: number;
  small: boolean;
}

/** Twice five seconds of L1, on a busy machine. */
const LOOKED_AT_MS = 300_000;

/** `hyperturtle guest agent` in an L1, with the guest module and turtlefs. */
export class ManagedGuest {
  readonly l1: Level;
  #agent: Job | undefined;

  constructor(l1: Level) {
    this.l1 = l1;
  }

  /** Module, agent and npf, undone in reverse by `undo`. */
  async setUp(undo: CleanupStack, signal?: AbortSignal, largeFrames?: LargeFrames): Promise<void> {
    await this.setUpAgent(undo, signal, largeFrames);
    await this.load(signal);
    undo.add('desired state', () => this.unload());
  }

  /** The same without a program. */
  async setUpAgent(undo: CleanupStack, signal?: AbortSignal, largeFrames?: LargeFrames): Promise<void> {
    await loadGuestModule(this.l1, undo, largeFrames, signal);
    await this.start(signal);
    // the agent mounted it, and leaves it to those who may use it
    undo.add('turtlefs', () => runScript(this.l1, `umount ${TURTLEFS_DIR}`).then(() => {}));
    undo.add('agent', () => this.end('TERM'));
  }

  async start(signal?: AbortSignal): Promise<void> {
    await this.l1.writeFile(GUEST_CONFIG, `metrics: {port: ${GUEST_METRICS_PORT}}\n`, { signal });
    this.#agent = await this.l1.spawn([CLI, 'guest', 'agent', '--config', GUEST_CONFIG], { signal });
    await jobSays(this.#agent, /"agent started"/, 'hyperturtle guest agent', START_MS, signal);
  }

  async end(signal: 'TERM' | 'KILL'): Promise<void> {
    await this.#agent?.kill(signal);
    await this.#agent?.wait({ timeoutMs: 60_000 });
  }

  /** A command of L1's command line that must succeed. */
  async command(args: readonly string[], signal?: AbortSignal): Promise<string> {
    return run(this.l1, [CLI, ...args], { timeoutMs: COMMAND_MS, signal });
  }

  /** Pages of all nested guests that have a frame, and those given ahead and not seen to be used. */
  async l2Pages(signal?: AbortSignal): Promise<{ held: number; unused: number }> {
    const total = await this.#l2Total(signal);
    return { held: total('pages_held'), unused: total('pages_unused') };
  }

  /** When all their 2 MiB frames have been looked at, which takes L1 some seconds. Throws HT_TIMEOUT. */
  async l2Memory(signal?: AbortSignal): Promise<L2Memory> {
    return waitFor(
      'a look at all 2 MiB frames',
      async () => {
        const total = await this.#l2Total(signal);
        if (total('large_waiting') > 0) return undefined;
        return {
          ...{ held: total('pages_held'), seen: total('large_seen'), kept: total('large_kept') },
          ...{ vain: total('pages_vain'), back: total('pages_given_back'), small: total('small') > 0 },
        };
      },
      { timeoutMs: LOOKED_AT_MS, intervalMs: 2000, signal },
    );
  }

  /** The sum of a metric over all nested guests. */
  async #l2Total(signal: AbortSignal | undefined): Promise<(name: string) => number> {
    const text = await metricsOf(this.l1, GUEST_METRICS_PORT, signal);
    return (name) =>
      Array.from(text.matchAll(new RegExp(`^hyperturtle_l2_${name}\\{.*\\} (\\d+)$`, 'gm')), (m) =>
        Number(m[1]),
      ).reduce((a, b) => a + b, 0);
  }

  /** Asks L0 for npf. Returns when it is linked. */
  async load(signal?: AbortSignal): Promise<void> {
    await this.command(['load', NPF, '--name', 'npf', '--link'], signal);
  }

  /** Unlinked and out of the desired state. */
  async unload(): Promise<void> {
    await this.command(['unload', 'npf', '--force']);
  }

  /** Until L0 has what is wanted, the arena is bound, and at least `l2s` nested guests are registered. */
  async whenSettled(l2s: number, timeoutMs: number, signal?: AbortSignal): Promise<void> {
    const settled = async (): Promise<true | undefined> => {
      const text = await metricsOf(this.l1, GUEST_METRICS_PORT, signal);
      const value = (name: string): number =>
        Number(new RegExp(`^hyperturtle_agent_${name} (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
      const all = ['connected', 'desired_reached', 'arena_bound'].every((name) => value(name) === 1);
      return all && value('l2s') >= l2s ? true : undefined;
    };
    try {
      // each look is a shell and a wget in L1, which cost it a fifth of a second
      await waitFor(`${this.l1.name}: desired state`, settled, { timeoutMs, intervalMs: 1000, signal });
    } catch (e) {
      if (!isHyperturtleError(e, 'HT_TIMEOUT')) throw e;
      const r = await this.l1.exec([CLI, 'status', '--json'], { timeoutMs: COMMAND_MS, signal });
      const said = `${r.stdout.toString('utf8')}${r.stderr.toString('utf8')}`.trim();
      throw new HyperturtleError('HT_TIMEOUT', `${e.message}; status: ${said}`, { cause: e });
    }
  }

  /**
   * Runs the guest of c/l2/touch_guest.S, which writes and checks every page of itself, as any VMM would run it: its
   * RAM on turtlefs, nothing said to the agent. Gives the exit status of QEMU: 33 when every page was as it left it.
   */
  async runTouchGuest(memMib: number, signal?: AbortSignal): Promise<number> {
    const ram = `memory-backend-file,id=ram,mem-path=${TURTLEFS_DIR},size=${memMib}M,share=on`;
    const r = await this.l1.exec(
      [
        ...['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
        ...['-accel', 'kvm', '-cpu', 'host', '-m', `${memMib}M`, '-object', ram],
        ...['-machine', machineOption('pc'), '-bios', FAST_FIRMWARE],
        ...['-kernel', '/payload/l2/programs/touch_guest', '-device', 'isa-debug-exit,iobase=0xf4'],
      ],
      { timeoutMs: 180_000, signal },
    );
    return r.status;
  }
}

export interface ManagedOptions {
  arenaMib: number;
  /** 2 MiB frames that L1 keeps; default: none, all pages are of 4 KiB. */
  largeFrames?: LargeFrames;
  /** More of the daemon's configuration: at its top, and under the VM. */
  hostLines?: readonly string[];
  vmLines?: readonly string[];
  signal?: AbortSignal | undefined;
}

export class ManagedAcceleration implements Accelerated, AsyncDisposable {
  readonly registeredBy = 'agent';
  readonly host: ManagedHost;
  readonly guest: ManagedGuest;
  readonly #lab: Lab;
  readonly #undo = new CleanupStack();
  #linked = false;
  #vms: ManagedVmSpec[] = [];

  private constructor(lab: Lab, hostLines: readonly string[] = []) {
    this.#lab = lab;
    this.host = new ManagedHost(lab.l0, hostLines);
    this.guest = new ManagedGuest(lab.l1);
  }

  static async on(lab: Lab, options: ManagedOptions): Promise<ManagedAcceleration> {
    const a = new ManagedAcceleration(lab, options.hostLines);
    await a.#undo.onFailure(() => a.#on(options));
    return a;
  }

  async #on(o: ManagedOptions): Promise<void> {
    const { signal } = o;
    this.#vms = [{ name: 'l1', seat: FIRST_SEAT, arenaMib: o.arenaMib, more: o.vmLines ?? [] }];
    await this.host.setUp(this.#undo, this.#vms, signal);
    await this.guest.setUp(this.#undo, signal, o.largeFrames);
    this.#linked = true;
    // linked it is: that was the answer; the arena may still be on its way into L1
    await waitFor(
      'the arena in L1',
      async () => ((await guestStatus(this.#lab.l1, signal)).pool_high > 0 ? true : undefined),
      { timeoutMs: START_MS, intervalMs: 500, signal },
    );
  }

  /** Again, after it was ended. */
  startHost(signal?: AbortSignal): Promise<void> {
    return this.host.start(this.#vms, signal);
  }

  async setLinked(linked: boolean, signal?: AbortSignal): Promise<void> {
    if (linked === this.#linked) return;
    await this.guest.command(linked ? ['link', 'npf', '--hook', 'npf'] : ['unlink', 'npf'], signal);
    this.#linked = linked;
  }

  async hookCounts(signal?: AbortSignal): Promise<HookCounts> {
    const metrics = await this.host.metrics('l1', signal);
    const value = (name: string): number => metrics.get(`hook_${name} npf`) ?? 0;
    const prefix = 'hook_reasons npf ';
    const reasons = Array.from(metrics).filter(([k]) => k.startsWith(prefix));
    return {
      runs: value('runs'),
      handled: value('handled'),
      entries: value('entries'),
      reasons: Object.fromEntries(reasons.map(([k, n]) => [k.slice(prefix.length), n])),
    };
  }

  async off(): Promise<void> {
    await this.#undo.run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.off();
  }
}
