/** `hyperturtle run` in L1: a nested guest from an image, accelerated, and nothing of it left however it ends. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../src/core/wait.ts';
import { CLI } from '../../src/testbed/acceleration.ts';
import { ManagedAcceleration } from '../../src/testbed/managed.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import type { CommandResult, Job } from '../../src/lab/levels.ts';
import { L1_RUN } from '../../src/lab/machine.ts';
import { useLab } from '../support/lab.ts';

const lab = useLab({ images: ['bash', 'redis'] });
let acceleration: ManagedAcceleration;
const TIMEOUT_MS = 240_000;
const LAN = '10.9.0';

beforeAll(async () => {
  await runScript(
    lab().l0,
    `modprobe bridge && ip link add br0 type bridge && ip address add ${LAN}.1/24 dev br0 && ip link set br0 up`,
  );
  acceleration = await ManagedAcceleration.on(lab(), {
    arenaMib: 8,
    hostLines: ['networks:', '  lan: {bridge: br0}'],
    vmLines: ['nics: {networks: [lan], ports: [spare0, spare1]}'],
  });
});
afterAll(async () => {
  await acceleration.off();
  await runScript(lab().l0, 'ip link del br0');
});

const start = (...args: string[]): Promise<CommandResult> =>
  lab().l1.exec([CLI, 'run', ...args], { timeoutMs: TIMEOUT_MS });

/** Everything in L1 that a run makes, and its NICs' ports in L0. */
async function left(): Promise<string> {
  const said = await runScript(
    lab().l1,
    'ls /run/hyperturtle/run /run/hyperturtle/ram | grep -v :; ls -d /sys/class/net/ht-*; ls /sys/bus/pci/drivers/vfio-pci | grep ^0000; ps -o args | grep "[q]emu-system"; true',
  );
  return `${said}${await runScript(lab().l0, 'ls /sys/class/net/br0/brif')}`.trim();
}

/** Pages of nested guests that have a frame. */
const held = async (): Promise<number> => (await acceleration.guest.l2Pages()).held;

async function until(job: Job, what: string, there: () => Promise<boolean>): Promise<void> {
  await waitFor(
    what,
    async () => {
      if ((await job.status()) !== undefined) throw new Error(await job.output());
      return (await there()) ? true : undefined;
    },
    { timeoutMs: TIMEOUT_MS, intervalMs: 500 },
  );
}

/** In pages. */
const MIB = 256;

const gone = (): Promise<true> =>
  waitFor('nothing left', async () => ((await left()) === '' ? true : undefined), {
    timeoutMs: 60_000,
    intervalMs: 500,
  });

/** A run in the background, as a user's shell has it; gives its process. */
async function background(args: string, log: string): Promise<string> {
  return (await runScript(lab().l1, `${CLI} run ${args} </dev/null >${log} 2>&1 & echo $!`)).trim();
}

async function says(pid: string, file: string, what: RegExp): Promise<void> {
  await waitFor(
    `${what} in ${file}`,
    async () => {
      const r = await lab().l1.exec(['sh', '-c', `kill -0 ${pid} || echo ended; cat ${file}`]);
      const text = r.stdout.toString();
      if (what.test(text)) return true;
      if (text.startsWith('ended')) throw new Error(text);
      return undefined;
    },
    { timeoutMs: TIMEOUT_MS, intervalMs: 1000 },
  );
}

test('a command runs in an image, its faults are answered in L0, memory that it frees goes back to L1, and a signal ends all of it', async () => {
  const before = await acceleration.hookCounts();
  const script = `read -r name </proc/sys/kernel/hostname; echo "$BASH_VERSION in $name"; busybox dd if=/dev/zero of=/run/x bs=1M count=64 2>/dev/null; echo full; busybox sleep 8; busybox rm /run/x; busybox sleep 1000`;
  // a kernel reports free memory only while it has more than 64 MiB of it in a zone
  const job = await lab().l1.spawn([
    ...[CLI, 'run', 'bash', '--balloon', '--memory', '224', '--', 'bash', '-c', script],
  ]);
  try {
    await until(job, 'a full file', async () => (await job.output()).includes('full'));
    const full = await held();
    await until(job, 'most of it to come back', async () => (await held()) < full - 48 * MIB);
    const after = await acceleration.hookCounts();
    expect(after.handled - before.handled).toBeGreaterThan(200);
    expect(await job.output()).toMatch(/^5\..* in bash\nfull\n$/);
  } finally {
    await job.kill('TERM');
    expect(await job.wait({ timeoutMs: 60_000 })).toBe(130);
  }
  expect(await left()).toBe('');
});

test('a service answers from a bridge of L1, and kill -9 of the run takes guest, tap and files with it', async () => {
  await runScript(
    lab().l1,
    'ip link add br0 type bridge; ip address add 10.8.0.1/24 dev br0; ip link set br0 up',
  );
  const args = 'redis --name redis1 --net bridge=br0 --ip 10.8.0.2/24 --service --events /tmp/events --pin 0';
  const pid = await background(args, '/tmp/run.log');
  await says(pid, '/tmp/events', /"answered"/);
  expect(await runScript(lab().l1, "printf 'PING\\r\\n' | nc -w 20 10.8.0.2 6379 | head -n 1")).toContain(
    '+PONG',
  );
  expect(await left()).toMatch(/ht-[0-9a-f]{8}[^]*qemu-system/);
  // the run's name is the guest's
  expect(await acceleration.guest.command(['status'])).toMatch(/^redis1 +\d+ /m);
  const doctor = await lab().l1.exec([CLI, 'doctor'], { timeoutMs: TIMEOUT_MS });
  expect(doctor.stdout.toString()).toContain('VMM redis1 (process ');

  await runScript(lab().l1, `kill -9 ${pid}`);
  await gone();
  await runScript(lab().l1, 'ip link del br0');
});

/** Answers DHCP on L0's network, with addresses from 200 to 203. */
async function dhcpServer(): Promise<Job> {
  const conf = `start ${LAN}.200\nend ${LAN}.203\ninterface br0\nlease_file /tmp/leases\nopt subnet 255.255.255.0\n`;
  await runScript(lab().l0, `printf '${conf}' >/tmp/udhcpd.conf; : >/tmp/leases`);
  return lab().l0.spawn(['busybox', 'udhcpd', '-f', '/tmp/udhcpd.conf']);
}

/** The three processes of a run in L1, whose name is its directory's. */
const PARTS = {
  run: (pid: string) => `echo ${pid}`,
  supervisor: () => `sed 's/.*"supervisor":{"pid":\\([0-9]*\\).*/\\1/' /run/hyperturtle/run/dhcp1/state.json`,
  QEMU: () => 'pidof qemu-system-x86_64',
} as const;

test("a NIC of the host's is the guest's from its first instruction, gets its address by DHCP, and comes back after kill -9 of each part", async () => {
  const server = await dhcpServer();
  const args = `bash --name dhcp1 --memory 96 --net direct=lan --ip dhcp -- bash -c 'busybox ip address show; busybox ping -c 3 -W 5 ${LAN}.1; busybox sleep 1000'`;
  try {
    for (const [part, find] of Object.entries(PARTS)) {
      const pid = await background(args, '/tmp/direct.log');
      try {
        await says(pid, '/tmp/direct.log', / [1-3] packets received/);
        expect(await runScript(lab().l1, 'cat /tmp/direct.log')).toMatch(
          new RegExp(`inet ${LAN.replaceAll('.', '[.]')}[.]20[0-3]/24`),
        );
        // not plugged in later
        expect(await runScript(lab().l1, "tr '\\0' ' ' </proc/$(pidof qemu-system-x86_64)/cmdline")).toMatch(
          /-device vfio-pci,id=net0,host=0000:/,
        );
        expect(await left()).toMatch(/0000:[^]*qemu-system[^\n]*\n\S+$/);
        // the host has seen the guest, and L1 has no network device
        expect(await runScript(lab().l0, 'cat /proc/net/arp')).toMatch(
          new RegExp(`^${LAN.replaceAll('.', '[.]')}[.]20[0-3] +0x1 +0x2`, 'm'),
        );
        expect((await runScript(lab().l1, 'ls /sys/class/net')).trim()).toBe('lo');
        await runScript(lab().l1, `kill -9 $(${find(pid)})`);
        await gone();
      } catch (e) {
        throw new Error(`kill -9 of the ${part}`, { cause: e });
      } finally {
        await runScript(lab().l1, `kill -9 ${pid} 2>/dev/null; true`);
      }
    }
  } finally {
    await server.kill('KILL');
    await server.wait({ timeoutMs: 60_000 });
  }
});

test('a directory is a root as well, what --print prints is a command that runs by itself, and what its balloon takes goes back to L1', async () => {
  const dir = '/tmp/root';
  await runScript(
    lab().l1,
    `mkdir -p ${dir}/bin && cp /usr/bin/busybox ${dir}/bin/ && echo there > ${dir}/file`,
  );
  const script =
    'B=/bin/busybox; $B cat /file; $B dd if=/dev/zero of=/run/x bs=1M count=48 2>/dev/null; echo full; $B rm /run/x; $B sleep 1000';
  const args = [
    ...[dir, '--memory', '128', '--balloon', '--print'],
    '--',
    '/bin/busybox',
    'sh',
    '-c',
    script,
  ];
  const command = (await run(lab().l1, [CLI, 'run', ...args], { timeoutMs: TIMEOUT_MS })).trim();
  expect(command).toContain('mem-path=/run/hyperturtle/ram');
  // what it frees it does not report here: the balloon alone is to give it back
  const mute = command.replace('free-page-reporting=on', 'free-page-reporting=off');
  expect(mute).not.toBe(command);
  const monitor = '/tmp/monitor';
  const job = await lab().l1.spawn(['sh', '-c', `exec ${mute} -qmp unix:${monitor},server=on,wait=off`]);
  try {
    await until(job, 'a full file', async () => (await job.output()).includes('full'));
    const full = await held();
    const say = [{ execute: 'qmp_capabilities' }, { execute: 'balloon', arguments: { value: 72 << 20 } }].map(
      (o) => JSON.stringify(o),
    );
    const client = `const s = require('net').connect('${monitor}'); let said = '';
s.on('data', (d) => (said += d).split('"return"').length > 2 && s.end()); s.write(${JSON.stringify(say.join('\n'))})`;
    await run(lab().l1, ['node', '-e', client], { timeoutMs: 60_000 });
    await until(job, 'the balloon to take it', async () => (await held()) < full - 24 * MIB);
    expect(await job.output()).toBe('there\nfull\n');
  } finally {
    await job.kill('TERM');
    await job.wait({ timeoutMs: 60_000 });
  }
  expect(await left()).toBe('');
});

test("what cannot be run is told in one line, a command's exit status is the run's, and nothing is left", async () => {
  const cases: [string[], number, RegExp][] = [
    [['bash', '--net', 'bridge=br7'], 3, /bridge br7: this machine has none/],
    [['bash', '--net', 'none', '--', 'bash', '-c', 'exit 7'], 7, /^$/],
    // too short for QEMU to take it for a kernel, of which it says one thing or another: anything longer it runs
    // it ends when QEMU does, not when it would have waited long enough
    [
      ['bash', '--timeout-s', '3000', '--kernel', '/etc/profile'],
      10,
      /QEMU ended with status 1 before the command did: qemu: /,
    ],
  ];
  for (const [args, status, stderr] of cases) {
    const r = await start(...args);
    expect([args, r.status]).toEqual([args, status]);
    expect(r.stderr.toString()).toMatch(stderr);
    expect(await left()).toBe('');
  }
});

test("L1's virtual CPUs are pinned by a command of L0, and a CPU that is not there is refused", async () => {
  const pin = (cpus: string): Promise<CommandResult> =>
    lab().l0.exec([CLI, 'host', 'pin', '--qmp', L1_RUN.qmpSocket, '--cpus', cpus], { timeoutMs: 60_000 });
  expect((await pin('0')).stdout.toString()).toMatch(/^vCPU 0 \(thread \d+\): CPU 0\n$/);
  expect((await pin('63')).status).not.toBe(0);
});
