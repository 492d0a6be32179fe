/**
 * The hostile L1: the second one of a lab, with a kernel module that scribbles over all that L0 reads of it
 * (c/fuzz), a nested guest that faults all the time, hostile programs in L0 and a port into which nonsense is written. It
 * breaks now and then: then it is reset, or booted again, and goes on with the next seed.
 */
import { readFile, stat } from 'node:fs/promises';
import { HyperturtleError, isHyperturtleError, messageOf } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { tailOf } from '../lab/boot.ts';
import { kernelTroubles } from '../lab/kernel-log.ts';
import type { Lab } from '../lab/lab.ts';
import { run, runScript } from '../lab/levels.ts';
import type { Job } from '../lab/levels.ts';
import type { SecondL1 } from '../lab/second.ts';
import { hostileLines } from './messages.ts';
import { RawPort } from './port.ts';
import { Random, seedFor } from './random.ts';
import { addOwn } from '../core/own.ts';

const STATUS = '/run/fuzz-vmm';
const MODULE = '/sys/module/hyperturtle_fuzz/parameters';
const PAGES = 2048;
const CPUS = 2;
/** Under emulation, with another L1 at work, and while it is being broken. */
const ASK_MS = 60_000;

/**
 * Objects for the hooks npf and exit: the real program, one that answers nonsense, and one as slow as admission lets
 * it be.
 */
const OBJECTS = {
  npf: {
    npf: '/payload/bpf/npf.bpf.o',
    'fuzz-npf': '/payload/fuzz/fuzz-npf.bpf.o',
    'slow-npf': '/payload/fuzz/slow-npf.bpf.o',
  },
  exit: {
    'exit-cache': '/payload/bpf/exit-cache.bpf.o',
    'fuzz-exit': '/payload/fuzz/fuzz-exit.bpf.o',
    'slow-exit': '/payload/fuzz/slow-exit.bpf.o',
  },
} as const;
const HONEST = { npf: 'npf', exit: 'exit-cache' } as const;
const SLOW = { npf: 'slow-npf', exit: 'slow-exit' } as const;
type Hook = keyof typeof OBJECTS;
const HOOKS: readonly Hook[] = ['npf', 'exit'];
const OPTIONS = {
  npf: undefined,
  exit: {
    exits: ['cpuid', 'rdmsr', 'wrmsr', 'io', 'hypercall', 'hlt', 'pause', 'other'],
    msrs: [0xc000_0080],
    after: true,
    user: true,
  },
} as const;

/** Operations so far, by kind, and what L2 did meanwhile. */
export interface AttackCounts {
  operations: Record<string, number>;
  /** Entries of L2 at each of which operations were done. */
  entries: number;
  /** Operations while L2 ran on another CPU; they are in `operations` too. */
  beside: number;
  l2Exits: number;
  l2Restarts: number;
  l2Vms: number;
}

export interface Restart {
  boot: number;
  /** Why it was not as it must be, and the first lines of its kernel about it, if it could tell. */
  why: string;
}

const NO_COUNTS: AttackCounts = {
  operations: {},
  entries: 0,
  beside: 0,
  l2Exits: 0,
  l2Restarts: 0,
  l2Vms: 0,
};

export class Attacker {
  readonly restarts: Restart[] = [];
  readonly #lab: Lab;
  readonly #seed: number;
  readonly #batch: number;
  /** Its attack is slow programs, and nothing else. */
  readonly #slow: boolean;
  #boot = 0;
  #machine: SecondL1 | undefined;
  #port: RawPort | undefined;
  #vmm: Job | undefined;
  #random: Random;
  #lines = 0;
  /** How long its console was when this boot began. */
  #consoleAt = 0;
  /** Counts of earlier boots, and of this one when it was last asked. */
  #before: AttackCounts = NO_COUNTS;
  #now: AttackCounts = NO_COUNTS;
  #links = new Map<Hook, { object: string; id: number }>();

  constructor(lab: Lab, seed: number, batch: number, slow: boolean) {
    this.#lab = lab;
    this.#seed = seed;
    this.#batch = batch;
    this.#slow = slow;
    this.#random = new Random(seedFor(seed, 0));
  }

  /** As far as known. */
  get counts(): AttackCounts {
    return addCounts(this.#before, this.#now);
  }

  /** Whether no honest program answers a hook. */
  isHostile(hook: Hook): boolean {
    return (this.#links.get(hook)?.object ?? HONEST[hook]) !== HONEST[hook];
  }

  /** Boots it and makes all ready; it is quiet until `attack`. */
  async start(signal?: AbortSignal): Promise<void> {
    this.#machine = await this.#lab.bootSecondL1(signal, CPUS);
    await this.#setUp(signal);
  }

  async end(): Promise<void> {
    await this.#machine?.end();
    this.#machine = undefined;
  }

  async #setUp(signal?: AbortSignal): Promise<void> {
    const { l1 } = this.#machine!;
    this.#consoleAt = (await stat(this.#lab.files.secondSerial)).size;
    const seed = seedFor(this.#seed, ++this.#boot);
    this.#random = new Random(seed);
    this.#links.clear();
    // the daemon plugs the arena in when it is ready
    await waitFor(
      'the arena in the hostile L1',
      async () => {
        const r = await l1.exec(
          [
            'insmod',
            '/payload/modules/hyperturtle_fuzz.ko',
            'throw_away=1',
            `seed=${seed}`,
            `pages=${PAGES}`,
          ],
          { timeoutMs: ASK_MS, signal },
        );
        return r.status === 0 ? true : undefined;
      },
      { timeoutMs: 120_000, intervalMs: 1000, signal },
    );
    // An oops ends it at once, rather than leaving locks held. Nothing but L2's exits makes its KVM walk L2's tables: they
    // are overwritten while L2 runs
    const quiet = '[ ! -e $thp ] || echo never >$thp; echo 0 >/proc/sys/vm/compaction_proactiveness';
    await runScript(
      l1,
      `echo 1 >/proc/sys/kernel/panic_on_oops; dmesg -n 1; thp=/sys/kernel/mm/transparent_hugepage/enabled; ${quiet}`,
      { signal },
    );
    this.#port = await RawPort.open(l1, signal);
    await this.#port.hello(signal);
    for (const objects of Object.values(OBJECTS))
      for (const [name, file] of Object.entries(objects))
        await this.#port.load(name, file, name.startsWith('fuzz') ? { seed: seedBytes(seed) } : {}, signal);
    for (const hook of HOOKS) await this.#link(hook, HONEST[hook], signal);
    await this.#startVmm(seed, signal);
  }

  async #startVmm(seed: number, signal?: AbortSignal): Promise<void> {
    this.#vmm = await this.#machine!.l1.spawn(
      ['/payload/l2/programs/fuzz_vmm', 'wild', STATUS, String(PAGES), String(seed)],
      { signal },
    );
  }

  async #link(hook: Hook, object: string, signal?: AbortSignal): Promise<void> {
    const linked = this.#links.get(hook);
    if (linked?.object === object) return;
    if (linked) await this.#port!.call('unlink', { id: linked.id }, signal);
    this.#links.delete(hook);
    const options = OPTIONS[hook];
    const { link } = (await this.#port!.call(
      'link',
      { object, hook, ...(options === undefined ? {} : { options }) },
      signal,
    )) as { link: { id: number } };
    this.#links.set(hook, { object, id: link.id });
  }

  /** Only leaves are emptied: as many faults as in an attack, all of them honest, and honest programs. */
  async beQuiet(signal?: AbortSignal): Promise<void> {
    for (const hook of HOOKS) await this.#link(hook, HONEST[hook], signal);
    await this.#set(true, signal);
  }

  /** Programs of this turn, then operations at each entry of L2 until told otherwise. */
  async attack(signal?: AbortSignal): Promise<void> {
    for (const hook of HOOKS)
      await this.#link(
        hook,
        this.#slow ? SLOW[hook] : this.#random.pick([HONEST[hook], `fuzz-${hook}`]),
        signal,
      );
    await this.#set(this.#slow, signal);
  }

  async #set(quiet: boolean, signal?: AbortSignal): Promise<void> {
    await runScript(
      this.#machine!.l1,
      `echo ${quiet ? 1 : 0} >${MODULE}/quiet; echo ${this.#batch} >${MODULE}/batch`,
      { timeoutMs: ASK_MS, signal },
    );
    await this.#vmm!.kill(quiet ? 'USR2' : 'USR1');
  }

  /** Some hostile lines; a session that the daemon closed is made again. */
  async write(lines: number, signal?: AbortSignal): Promise<void> {
    if (this.#slow) return;
    await this.#port!.write(hostileLines(this.#random, lines), 30_000, signal);
    this.#lines += lines;
  }

  /** After hostile lines: what is linked is so still, or is linked again by a new session. */
  async settle(signal?: AbortSignal): Promise<void> {
    await this.#port!.hello(signal);
    const { links } = (await this.#port!.call('list', {}, signal)) as {
      links: { id: number; hook: string; object: string }[];
    };
    this.#links.clear();
    for (const { id, hook, object } of links)
      if (hook === 'npf' || hook === 'exit') this.#links.set(hook, { object, id });
  }

  /** Reads its counters; throws HT_CRASHED when it is not as it must be. */
  async look(signal?: AbortSignal): Promise<void> {
    const { l1 } = this.#machine!;
    const text = await runScript(l1, `cat /proc/hyperturtle_fuzz ${STATUS}`, { timeoutMs: ASK_MS, signal });
    const [module, vmm] = text
      .trim()
      .split('\n')
      .map((l) => JSON.parse(l) as Record<string, number>);
    const { entries = 0, beside = 0, ...operations } = module ?? {};
    this.#now = {
      operations: { ...operations, slots: vmm?.['slots'] ?? 0, messages: this.#lines },
      entries,
      beside,
      l2Exits: vmm?.['exits'] ?? 0,
      l2Restarts: vmm?.['restarts'] ?? 0,
      l2Vms: vmm?.['vms'] ?? 0,
    };
    if ((await this.#vmm!.status()) !== undefined) {
      const said = (await this.#vmm!.output()).trim().slice(-200);
      await this.#startVmm(seedFor(this.#seed, this.#boot, entries), signal);
      if (said !== '') throw new HyperturtleError('HT_CRASHED', `its VMM ended: ${said}`);
    }
    const [trouble] = kernelTroubles(await run(l1, ['dmesg'], { timeoutMs: ASK_MS, signal }));
    // a warning of its own KVM about its own tables is what was asked for; it lives on
    if (trouble !== undefined && !/WARNING|Bad page/.test(trouble))
      throw new HyperturtleError('HT_CRASHED', trouble.split('\n').slice(0, 3).join(' | '));
  }

  /** What its kernel said last of an end, or what was seen from here. */
  async #why(cause: unknown): Promise<string> {
    const output = await tailOf(this.#lab.files.secondSerial, 200);
    const said = output.split('\n').filter((l) => /BUG|Oops|RIP: 0010|Kernel panic|fault/.test(l));
    return [messageOf(cause).slice(0, 150), ...said.slice(-4)].join(' | ').slice(0, 600);
  }

  /** What it had done when it broke: its module tells the console in a panic. */
  async #countLast(): Promise<void> {
    const output = (await readFile(this.#lab.files.secondSerial))
      .subarray(this.#consoleAt)
      .toString('latin1');
    const last = lastCounts(output);
    if (last === undefined) return;
    const { slots = 0, messages = 0 } = this.#now.operations;
    const { entries = 0, beside = 0, ...operations } = last;
    this.#now = { ...this.#now, entries, beside, operations: { ...operations, slots, messages } };
  }

  /** By reset, or by a new QEMU where that does not help. */
  async restart(cause: unknown, signal?: AbortSignal): Promise<void> {
    await this.#countLast();
    this.restarts.push({ boot: this.#boot, why: await this.#why(cause) });
    this.#before = addCounts(this.#before, this.#now);
    this.#now = NO_COUNTS;
    this.#lines = 0;
    try {
      await this.#machine!.reset(signal);
    } catch (e) {
      if (!isHyperturtleError(e)) throw e;
      await this.end();
      this.#machine = await this.#lab.bootSecondL1(signal, CPUS);
    }
    await this.#setUp(signal);
  }
}

/** Counts that the module printed last on a console. */
export function lastCounts(output: string): Record<string, number> | undefined {
  const said = [...output.matchAll(/hyperturtle_fuzz: counted (\{"entries":[^}\r\n]*\})/g)].at(-1)?.[1];
  return said === undefined ? undefined : (JSON.parse(said) as Record<string, number>);
}

export function addCounts(a: AttackCounts, b: AttackCounts): AttackCounts {
  const operations = { ...a.operations };
  for (const [k, n] of Object.entries(b.operations)) addOwn(operations, k, n);
  return {
    operations,
    entries: a.entries + b.entries,
    beside: a.beside + b.beside,
    l2Exits: a.l2Exits + b.l2Exits,
    l2Restarts: a.l2Restarts + b.l2Restarts,
    l2Vms: a.l2Vms + b.l2Vms,
  };
}

function seedBytes(seed: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(seed);
  return bytes.toString('base64');
}
