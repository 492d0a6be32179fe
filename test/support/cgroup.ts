/** Tiny nested guests in memory cgroups of their own in L1, and what those, the module and the VMM's tables say of them. */
import { CLI, guestStatus, jobSays } from '../../src/testbed/acceleration.ts';
import { TinyVmm } from '../../src/testbed/tiny-vmm.ts';
import { CleanupStack } from '../../src/core/lifecycle.ts';
import { waitFor } from '../../src/core/wait.ts';
import { TURTLEFS_DIR } from '../../src/guest/vmm/arguments.ts';
import { framesOut } from '../../src/kernel/guest.ts';
import { runScript } from '../../src/lab/levels.ts';
import type { Level } from '../../src/lab/levels.ts';

export const MIB = 1 << 20;
export const PAGES_PER_MIB = 256;
export const CGROUPS = '/sys/fs/cgroup';
/** Deadline of a guest's step. */
export const STEP_MS = 300_000;

/** Children of L1's root cgroup count memory from now on. */
export async function countMemory(l1: Level): Promise<void> {
  await runScript(l1, `echo +memory > ${CGROUPS}/cgroup.subtree_control`);
}

/** A VMM, and what is known of its memory. */
export interface Guest {
  vmm: TinyVmm;
  /** What the module says of it now. */
  status(): Promise<Status>;
  /** A number of a file of its cgroup, in bytes. */
  memory(file: string): Promise<number>;
  /** Resident pages of the VMM that are of files or shared, without those of its program. */
  resident(): Promise<number>;
  /** Pages of the guest's RAM that are in tables of the VMM. */
  inTables(): Promise<number>;
}

/** What `guest register` says at SIGURG. */
export interface Status {
  pages_held: number;
  frames_taken: number;
  frames_charged: number;
  frames_credit: number;
  faults: number;
  passes: number;
  cgroup: string;
  problem?: string;
}

/** A tiny guest that is registered, in a memory cgroup of its own. */
export async function inCgroup<T>(
  l1: Level,
  o: { name: string; limitMib?: number; pages: number; steps: string[]; ram?: string },
  body: (guest: Guest) => Promise<T>,
): Promise<T> {
  const [cgroup, ram] = [`${CGROUPS}/${o.name}`, o.ram ?? `${TURTLEFS_DIR}/${o.name}.ram`];
  await using undo = new CleanupStack();
  await runScript(
    l1,
    `mkdir ${cgroup} && echo ${o.limitMib === undefined ? 'max' : o.limitMib * MIB} > ${cgroup}/memory.max`,
  );
  undo.add('cgroup', () => runScript(l1, `rmdir ${cgroup}`).then(() => {}));
  undo.add('RAM', () => runScript(l1, `rm -f ${ram}`).then(() => {}));
  const vmm = await TinyVmm.start(l1, { ram, pages: o.pages, steps: o.steps });
  undo.add('VM', () => vmm[Symbol.asyncDispose]());
  await runScript(l1, `echo ${vmm.pid} > ${cgroup}/cgroup.procs`);
  const register = await l1.spawn([CLI, 'guest', 'register', '--pid', String(vmm.pid)]);
  undo.add('registration', async () => {
    if ((await register.status()) === undefined) await register.kill('TERM');
    await register.wait({ timeoutMs: 60_000 });
  });
  await jobSays(register, /registered/, 'hyperturtle guest register', 120_000, undefined);
  const lines = async (): Promise<string[]> =>
    (await register.output()).split('\n').filter((l) => l.includes('"event":"status"'));
  return await body({
    vmm,
    async status() {
      const had = (await lines()).length;
      await register.kill('URG');
      const line = await waitFor('status of the L2', async () => (await lines())[had], {
        timeoutMs: 60_000,
        intervalMs: 200,
      }).catch(async (e: unknown) => {
        throw new Error(`register says: ${(await register.output()).slice(-2000)}`, { cause: e });
      });
      return JSON.parse(line) as Status;
    },
    memory: async (file) => Number(await runScript(l1, `cat ${cgroup}/${file}`)),
    resident: async () => {
      const kib = await runScript(
        l1,
        `awk '/^Rss(File|Shmem)/ { n += $2 } END { print n + 0 }' /proc/${vmm.pid}/status;
         awk '/-.* .* .* .* / { own = $6 ~ "^/" && $6 != "${ram}" }
              /^Rss/ && own { n += $2 } /^Anonymous/ && own { n -= $2 } END { print n + 0 }' /proc/${vmm.pid}/smaps`,
      );
      const [all, program] = kib.trim().split('\n').map(Number);
      return (all! - program!) / 4;
    },
    inTables: async () => {
      const kib = await runScript(
        l1,
        `awk '/-.* .* .* .* / { ram = $6 == "${ram}" } /^Rss/ && ram { n += $2 } END { print n + 0 }' /proc/${vmm.pid}/smaps`,
      );
      return Number(kib) / 4;
    },
  });
}

/** Its status when credit that nobody uses has been given back. */
export const settled = (guest: Guest): Promise<Status> =>
  waitFor(
    'credit given back',
    async () => {
      const now = await guest.status();
      return now.frames_credit === 0 ? now : undefined;
    },
    { timeoutMs: 30_000, intervalMs: 500 },
  );

/** Waits until no file has a frame, but for those that CPUs have in hand. */
export async function allFramesBack(l1: Level): Promise<void> {
  await waitFor('all frames back', async () => (framesOut(await guestStatus(l1)) <= 2 ? true : undefined), {
    timeoutMs: 60_000,
    intervalMs: 500,
  });
}
