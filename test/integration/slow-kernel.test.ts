/**
 * A kernel that makes one VM's links wait, as when a vCPU that runs a program is not scheduled: the daemon's process goes on
 * with all other VMs, and undoes in order what was under way when it is told to end.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sleep } from '../../src/core/wait.ts';
import { compileBpf, findClang, whyNoBpf } from '../support/bpf.ts';
import { counterSource } from '../support/bpf-sources.ts';
import { compiledSupport } from '../support/compiled-support.ts';
import { DaemonHarness } from '../support/daemon-harness.ts';
import type { FakeVm, L1 } from '../support/daemon-harness.ts';
import { slowDown } from '../support/fake-kernel.ts';

const clang = findClang();
const why = whyNoBpf(clang);
const BOOT = '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33';
const SLOW_MS = 500;
/** In a turn, quiet or beside the hostile one, and turns of each. */
const LISTS = 100;
const ROUNDS = 8;
/** Below it a ratio of two times says more of this machine than of the daemon. */
const NOISE_MS = 3;

describe.skipIf(why !== undefined)(`a daemon whose kernel waits${why ? ` (skipped: ${why})` : ''}`, () => {
  let h: DaemonHarness;
  let vmOne: FakeVm;
  let one: L1;
  let two: L1;

  beforeAll(async () => {
    if (!clang) return;
    h = new DaemonHarness();
    h.writeConfig({ one: {}, two: {} });
    await h.startDaemon();
    vmOne = await h.startVm('one');
    await h.startVm('two');
    for (const name of ['one', 'two'])
      await h.whenVm(name, (v) => v.phase === 'attached' && v.agent.connected);
    one = await h.agent('one', BOOT);
    two = await h.agent('two', BOOT);
    const elf = compileBpf(clang, counterSource(1)).toString('base64');
    await one.peer.request('load', { name: 'counter', elf });
    await two.peer.request('load', { name: 'counter', elf });
  }, 120_000);
  afterAll(async () => {
    await h?.close();
  });

  /** How long so many of another VM's `list` take. */
  const lists = async (): Promise<number[]> => {
    const times: number[] = [];
    for (let i = 0; i < LISTS; i++) {
      const begin = performance.now();
      await two.peer.request('list', {});
      times.push(performance.now() - begin);
    }
    return times;
  };
  const p99 = (times: number[]): number =>
    times.sort((a, b) => a - b)[Math.floor(times.length * 0.99)] ?? Infinity;

  it.each([0, SLOW_MS])(
    'answers another VM as fast while one links and unlinks, each of its calls taking %i ms more',
    async (ms) => {
      slowDown(h.at('kernel'), vmOne.pid, ms);
      one.close();
      const hostile = spawn(
        process.execPath,
        [compiledSupport('hostile-links-main.ts'), h.at('one.guest'), BOOT],
        { stdio: ['pipe', 'pipe', 'inherit'] },
      );
      try {
        const said = createInterface({ input: hostile.stdout })[Symbol.asyncIterator]();
        const next = async (): Promise<string> => {
          const line = await said.next();
          return line.done === true ? 'it has ended' : line.value;
        };
        expect(await next()).toBe('ready');
        await lists();
        // in turns, so that whatever else this machine does is in both
        const quiet: number[] = [];
        const loud: number[] = [];
        let made = 0;
        for (let round = 0; round < ROUNDS; round++) {
          quiet.push(...(await lists()));
          hostile.stdin.write('go\n');
          loud.push(...(await lists()));
          hostile.stdin.write('stop\n');
          made = Number(await next());
        }
        const [before, beside] = [p99(quiet), p99(loud)];
        console.log(
          `list p99 ${before.toFixed(1)} ms, ${beside.toFixed(1)} ms beside ${made} links (${ms} ms each)`,
        );
        expect(made).toBeGreaterThan(ROUNDS);
        expect(beside, `${before} ms before`).toBeLessThan(2 * Math.max(before, NOISE_MS));
        expect((await h.vm('one')).phase).toBe('attached');
      } finally {
        hostile.kill('SIGKILL');
        one = await h.agent('one', BOOT);
      }
    },
  );

  it('keeps what it was asked in order, and undoes all of it in reverse when it is told to end meanwhile', async () => {
    slowDown(h.at('kernel'), vmOne.pid, SLOW_MS);
    const { link } = await two.peer.request('link', { object: 'counter', hook: 'npf' });
    expect(link.hook).toBe('npf');
    const from = h.journal.length;
    void one.peer.request('link', { object: 'counter', hook: 'npf' }).catch(() => {});
    await sleep(SLOW_MS / 2);
    expect(h.journal).toHaveLength(from);
    expect(await h.endDaemon('SIGTERM')).toBe(0);
    const after = h.journal.slice(from).filter((e) => e.pid === vmOne.pid);
    expect(after.map((e) => e.op)).toEqual(['link', 'unlink', 'detach']);
    expect(h.journal.slice(from).filter((e) => e.pid !== vmOne.pid && e.op === 'detach')).toHaveLength(1);
    expect(h.log).not.toContain('not all could be undone');
  });
});
