/** `hyperturtle run` in L1: a nested guest from an image, accelerated, and nothing of it left however it ends. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../src/core/wait.ts';
import { CLI } from '../../src/bench/accelerate.ts';
import { ManagedAcceleration } from '../../src/bench/managed.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import type { CommandResult } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab({ images: ['bash', 'redis'] });
let acceleration: ManagedAcceleration;
const TIMEOUT_MS = 240_000;

beforeAll(async () => {
  acceleration = await ManagedAcceleration.on(lab(), { arenaMib: 8 });
});
afterAll(() => acceleration?.off());

const start = (...args: string[]): Promise<CommandResult> =>
  lab().l1.exec([CLI, 'run', ...args], { timeoutMs: TIMEOUT_MS });

/** Everything in L1 that a run makes. */
async function left(): Promise<string> {
  const said = await runScript(
    lab().l1,
    'ls /run/hyperturtle/run /run/hyperturtle/ram | grep -v :; ls -d /sys/class/net/ht-*; ps -o args | grep "[q]emu-system"; true',
  );
  return said.trim();
}

test('a command runs in an image, its output and exit status are passed on, its faults are answered in L0, and nothing is left', async () => {
  const before = await acceleration.hookCounts();
  const r = await start(
    'bash',
    '--',
    'bash',
    '-c',
    'read -r name </proc/sys/kernel/hostname; echo "$BASH_VERSION in $name"; exit 7',
  );
  expect([r.status, r.stderr.toString()]).toEqual([7, '']);
  expect(r.stdout.toString()).toMatch(/^5\..* in bash\n$/);
  const after = await acceleration.hookCounts();
  expect(after.handled - before.handled).toBeGreaterThan(200);
  expect(await left()).toBe('');
});

test('a service answers from a bridge of L1, and kill -9 of the run takes guest, tap and files with it', async () => {
  await runScript(
    lab().l1,
    'ip link add br0 type bridge; ip address add 10.9.0.1/24 dev br0; ip link set br0 up',
  );
  const args = 'redis --net bridge=br0 --ip 10.9.0.2/24 --service --events /tmp/events --pin 0';
  const pid = (
    await runScript(lab().l1, `${CLI} run ${args} </dev/null >/tmp/run.log 2>&1 & echo $!`)
  ).trim();
  await waitFor(
    'an answer of the service',
    async () => {
      const r = await lab().l1.exec([
        'sh',
        '-c',
        `cat /tmp/events; kill -0 ${pid} || { echo ended; cat /tmp/run.log; }`,
      ]);
      const text = r.stdout.toString();
      if (text.includes('ended')) throw new Error(text);
      return text.includes('"answered"') ? true : undefined;
    },
    { timeoutMs: TIMEOUT_MS, intervalMs: 1000 },
  );
  expect(await runScript(lab().l1, "printf 'PING\\r\\n' | nc -w 20 10.9.0.2 6379 | head -n 1")).toContain(
    '+PONG',
  );
  expect(await left()).toMatch(/ht-[0-9a-f]{8}[^]*qemu-system/);

  await runScript(lab().l1, `kill -9 ${pid}`);
  await waitFor('nothing left', async () => ((await left()) === '' ? true : undefined), {
    timeoutMs: 30_000,
    intervalMs: 500,
  });
  await runScript(lab().l1, 'ip link del br0');
});

test('memory that a guest with a balloon frees goes back to L1', async () => {
  /** In pages. */
  const MIB = 256;
  const script = `busybox dd if=/dev/zero of=/run/x bs=1M count=64; echo full; busybox sleep 10; busybox rm /run/x; busybox sleep 1000`;
  const job = await lab().l1.spawn([
    ...[CLI, 'run', 'bash', '--balloon', '--memory', '192', '--', 'bash', '-c', script],
  ]);
  let most = 0;
  const pages = (what: string, enough: (held: number) => boolean): Promise<true> =>
    waitFor(
      what,
      async () => {
        if ((await job.status()) !== undefined) throw new Error(await job.output());
        const { held } = await acceleration.guest.l2Pages();
        most = Math.max(most, held);
        return enough(held) ? true : undefined;
      },
      { timeoutMs: TIMEOUT_MS, intervalMs: 1000 },
    );
  try {
    await pages('the guest to fill its file', (held) => held > 64 * MIB);
    await pages('most of it to come back', (held) => held < most - 48 * MIB);
  } finally {
    await job.kill('TERM');
    expect(await job.wait({ timeoutMs: 60_000 })).toBe(130);
  }
  expect(await left()).toBe('');
});

test('a directory is a root as well, and what --print prints is a command that runs by itself', async () => {
  const dir = '/tmp/root';
  await runScript(
    lab().l1,
    `mkdir -p ${dir}/bin && cp /usr/bin/busybox ${dir}/bin/ && echo there > ${dir}/file`,
  );
  const args = [dir, '--memory', '128', '--print', '--', '/bin/busybox', 'cat', '/file'];
  const command = (await run(lab().l1, [CLI, 'run', ...args], { timeoutMs: TIMEOUT_MS })).trim();
  expect(command).toContain('mem-path=/run/hyperturtle/ram');
  expect(await runScript(lab().l1, command, { timeoutMs: TIMEOUT_MS })).toBe('there\n');
  expect(await left()).toBe('');
});

test('what cannot be run is told in one line, and leaves nothing', async () => {
  const cases: [string[], number, RegExp][] = [
    [['nope'], 3, /image 'nope': not in/],
    [['bash', '--net', 'bridge=br7'], 3, /bridge br7: this machine has none/],
    [['bash', '--', '/no/such/program'], 127, /^$/],
    [['bash', '--kernel', '/payload/l2/initramfs.cpio'], 10, /QEMU ended with status/],
  ];
  for (const [args, status, stderr] of cases) {
    const r = await start(...args);
    expect([args, r.status]).toEqual([args, status]);
    expect(r.stderr.toString()).toMatch(stderr);
    expect(await left()).toBe('');
  }
});

test("L1's virtual CPUs are pinned by a command of L0's, and a CPU that is not there is refused", async () => {
  const pin = (cpus: string): Promise<CommandResult> =>
    lab().l0.exec([CLI, 'host', 'pin', '--qmp', L1_RUN.qmpSocket, '--cpus', cpus], { timeoutMs: 60_000 });
  expect((await pin('0')).stdout.toString()).toMatch(/^vCPU 0 \(thread \d+\): CPU 0\n$/);
  expect((await pin('63')).status).not.toBe(0);
});
