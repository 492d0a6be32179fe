/** The lab itself: commands, files, several at once, and that nothing is left however it ends. */
import { beforeAll, describe, expect, it } from 'vitest';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import os from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { CLI } from '../../src/testbed/acceleration.ts';
import { exec } from '../../src/core/exec.ts';
import { waitFor } from '../../src/core/wait.ts';
import type { Artifacts, PrepareArtifacts } from '../../src/lab/artifacts.ts';
import { labUp } from '../../src/lab/lab.ts';
import { run, runScript } from '../../src/lab/levels.ts';
import { prepareArtifacts } from '../../src/lab/prepare.ts';
import { labsRoot } from '../../src/lab/registry.ts';
import { CHROMIUM } from '../support/chromium.ts';
import { TEST_KERNEL, compiled, processesNaming, useLab } from '../support/lab.ts';

const lab = useLab();
/** That of `useLab()`: all of them share its snapshot. */
const SPEC = { kernel: TEST_KERNEL, clock: 'instructions' } as const;
const levels = ['l0', 'l1'] as const;

describe.each(levels)('at %s', (name) => {
  const level = () => lab()[name];

  it('a command gets its arguments, input and variables, and gives back both outputs and its status', async () => {
    const r = await level().exec(
      ['sh', '-c', 'cat; echo "$1|$X"; echo oops >&2; exit 7', 'sh', "a  'b' $c"],
      { input: 'from stdin\n', env: { X: 'y z' } },
    );
    expect([r.status, r.stdout.toString(), r.stderr.toString()]).toEqual([
      7,
      "from stdin\na  'b' $c|y z\n",
      'oops\n',
    ]);
  });

  it('a command that takes too long is killed with all that it started', async () => {
    const command = level().exec(['sh', '-c', 'sleep 4321 & sleep 4321'], { timeoutMs: 1000 });
    await expect(command).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    expect(await runScript(level(), "ps -o args | grep '[s]leep 4321' || true")).toBe('');
  });

  it('a program that does not exist is status 127', async () => {
    expect((await level().exec(['no-such-program'])).status).toBe(127);
  });

  it('a job runs on, shows its output so far, and ends when told to', async () => {
    const job = await level().spawn(['sh', '-c', 'echo begun; exec sleep 1000']);
    await waitFor('its first line', async () => ((await job.output()) === 'begun\n' ? true : undefined), {
      timeoutMs: 20_000,
    });
    expect(await job.status()).toBeUndefined();
    await job.kill();
    expect(await job.wait({ timeoutMs: 20_000 })).toBe(128 + 15);
  });

  it('a file arrives as it was, and comes back the same', async () => {
    const data = randomBytes(700_001);
    await level().writeFile('/root/blob', data, { mode: 0o750 });
    expect((await run(level(), ['stat', '-c', '%a %s', '/root/blob'])).trim()).toBe('750 700001');
    expect((await level().readFile('/root/blob')).equals(data)).toBe(true);
  });

  it('the payload is mounted and the clock is right', async () => {
    expect(await run(level(), ['ls', '/payload'])).toMatch(/app\n(.*\n)*modules/);
    const guestMs = Number(await run(level(), ['date', '+%s'])) * 1000;
    expect(Math.abs(guestMs - Date.now())).toBeLessThan(15_000);
  });

  it('the kernel is the one that the lab says', async () => {
    expect((await run(level(), ['uname', '-r'])).trim()).toBe(lab().environment().kernelVersion);
  });
});

it('many commands at once, at both levels, each get their own answers', async () => {
  const answers = await Promise.all(
    Array.from({ length: 12 }, (_, i) => run(i % 2 ? lab().l1 : lab().l0, ['echo', String(i)])),
  );
  expect(answers).toEqual(Array.from({ length: 12 }, (_, i) => `${i}\n`));
});

it("nested virtualization works: L1's own KVM is usable", async () => {
  await runScript(lab().l1, 'test -c /dev/kvm && grep -q Y /sys/module/kvm_amd/parameters/npt');
});

it('a second lab is up in less than 30 s beside the first, and shares nothing with it', async () => {
  const t0 = performance.now();
  await using other = await labUp(SPEC);
  expect(performance.now() - t0).toBeLessThan(30_000);
  await runScript(other.l1, 'echo other > /run/who');
  await runScript(lab().l1, 'echo first > /run/who');
  expect(await run(other.l1, ['cat', '/run/who'])).toBe('other\n');
  expect(await run(lab().l1, ['cat', '/run/who'])).toBe('first\n');
  const before = other.emulatorCpuSeconds();
  await runScript(other.l0, 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done');
  expect(other.emulatorCpuSeconds()).toBeGreaterThan(before);
});

describe('the command line', () => {
  let cli: string;
  beforeAll(async () => {
    cli = await compiled('src/cli/main.ts');
  });

  const hyperturtle = (...args: string[]) =>
    exec(process.execPath, [cli, ...args], {
      timeoutMs: 300_000,
      okStatus: Array.from({ length: 256 }, (_, i) => i),
    });
  const options = ['--kernel', SPEC.kernel, '--clock', SPEC.clock];

  it('starts a lab that stays, runs commands in it, copies files, lists it and ends it', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-cli-'));
    const name = ['--name', 't-cli'];
    try {
      expect((await hyperturtle('lab', 'up', ...name, ...options)).status).toBe(0);
      const again = await hyperturtle('lab', 'up', ...name, ...options);
      expect([again.status, again.stderr.toString()]).toEqual([
        6,
        expect.stringContaining("lab 't-cli' is already up"),
      ]);
      const r = await hyperturtle(
        'lab',
        'exec',
        ...name,
        '--level',
        '1',
        '--',
        'sh',
        '-c',
        'hostname; exit 9',
      );
      expect([r.status, r.stdout.toString()]).toEqual([9, 'l1\n']);
      const [here, back] = [path.join(dir, 'a'), path.join(dir, 'b')];
      writeFileSync(here, randomBytes(10_000), { mode: 0o700 });
      await hyperturtle('lab', 'cp', ...name, here, 'l1:/root/');
      await hyperturtle('lab', 'cp', ...name, 'l1:/root/a', back);
      expect(readFileSync(back).equals(readFileSync(here))).toBe(true);
      expect(statSync(back).mode & 0o777).toBe(0o700);
      const status = JSON.parse((await hyperturtle('lab', 'status', '--json')).stdout.toString()) as {
        labs: { name: string; alive: boolean }[];
      };
      expect(status.labs).toContainEqual(expect.objectContaining({ name: 't-cli', alive: true }));
    } finally {
      expect((await hyperturtle('lab', 'down', ...name)).status).toBe(0);
      rmSync(dir, { recursive: true });
    }
    expect(processesNaming('/t-cli/')).toEqual([]);
    expect((await hyperturtle('lab', 'exec', ...name, '--', 'true')).stderr.toString()).toBe(
      "hyperturtle: lab 't-cli' is not up: start it with 'hyperturtle lab up --name t-cli'\n",
    );
  });

  it('gives output while a command runs, keeps it at the limit, and does not wait for a service that stays', async () => {
    const inLab = (...args: string[]): ChildProcess =>
      spawn(process.execPath, [cli, 'lab', 'exec', '--name', lab().name, ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
      });
    const child = inLab('--timeout', '4', '--', 'sh', '-c', 'echo hi; echo oops >&2; sleep 1000');
    const [out, err]: [Buffer[], Buffer[]] = [[], []];
    child.stderr!.on('data', (d: Buffer) => err.push(d));
    child.stdout!.on('data', (d: Buffer) => out.push(d));
    await once(child.stdout!, 'data');
    expect(child.exitCode).toBeNull();
    const [status] = (await once(child, 'close')) as [number];
    expect([status, Buffer.concat(out).toString(), Buffer.concat(err).toString()]).toEqual([
      7,
      'hi\n',
      'oops\nhyperturtle: L0: sh -c echo hi; echo oops >&2; sleep 1000: still running after 4 s\n',
    ]);
    expect(await runScript(lab().l0, "ps -o args | grep '[s]leep 1000'; ls /run | grep ^exec-; true")).toBe(
      '',
    );

    const service = inLab('--', 'sh', '-c', 'sleep 1234 & echo $!; exit 3');
    const t0 = performance.now();
    const [pid] = (await once(service.stdout!, 'data')) as [Buffer];
    expect((await once(service, 'close'))[0]).toBe(3);
    expect(performance.now() - t0).toBeLessThan(30_000);
    await run(lab().l0, ['kill', pid.toString().trim()]);
  });

  it.skipIf(!CHROMIUM)("shows the dashboard's page of L0 in a browser of this machine", async () => {
    const page = '/run/dashboard';
    const server = await lab().l0.spawn([CLI, 'host', 'dashboard'], { logPath: page });
    const forward = spawn(
      process.execPath,
      [cli, 'lab', 'forward', '--name', lab().name, '--port', '0', 'L0:9466'],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const browser = await chromium.launch({
      executablePath: CHROMIUM!,
      args: ['--no-sandbox', '--disable-gpu'],
    });
    try {
      const [said] = (await once(forward.stdout, 'data')) as [Buffer];
      const [, port] = /^127\.0\.0\.1:(\d+) is L0:9466\n$/.exec(said.toString()) ?? [];
      const token = await waitFor('the page', async () => /#t=(\S+)\n/.exec(await server.output())?.[1], {
        timeoutMs: 60_000,
        intervalMs: 500,
      });
      const tab = await browser.newPage();
      await tab.goto(`http://127.0.0.1:${port}/#t=${token}`, { timeout: 60_000 });
      await expect
        .poll(() => tab.locator('main h1').innerText(), { timeout: 60_000 })
        .toBe('Daemon not reachable');
    } finally {
      await browser.close();
      forward.kill('SIGTERM');
      expect((await once(forward, 'exit'))[0]).toBe(0);
      await server.kill();
    }
    expect(await runScript(lab().l0, "ps -o args | grep '[f]orward-relay'; true")).toBe('');
  });

  it('refuses an unknown kernel in one line', async () => {
    const r = await hyperturtle('lab', 'up', '--name', 't-cli', '--kernel', '2.4');
    expect(r.status).not.toBe(0);
    const said = r.stderr.toString().trimEnd().split('\n');
    expect(said.filter((l) => l.startsWith('hyperturtle: '))).toEqual([said.at(-1)]);
    expect(said.at(-1)).toContain('2.4');
  });

  /** A process that has a lab of its own and is told nothing of its end. */
  async function owner(name: string): Promise<ChildProcess> {
    const module = path.join(path.dirname(cli), '../lab/lab.js');
    const child = spawn(
      process.execPath,
      [
        '-e',
        `import(${JSON.stringify(module)}).then((m) => m.labUp(${JSON.stringify({ name, ...SPEC })}))
         .then(() => { console.log('up'); setInterval(() => {}, 1000); })`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await once(child.stdout, 'data');
    return child;
  }

  it('leaves no QEMU when its owner is killed with -9, and the next start removes the files', async () => {
    const child = await owner('t-killed');
    const dir = path.join(labsRoot(), 't-killed');
    expect(processesNaming(`${dir}/`)).toHaveLength(1);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await waitFor('end of QEMU', () => (processesNaming(`${dir}/`).length === 0 ? true : undefined), {
      timeoutMs: 5000,
    });
    expect(existsSync(dir)).toBe(true);
    await (await labUp(SPEC)).down();
    expect(existsSync(dir)).toBe(false);
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('cleans up when `lab up` gets %s on its way', async (signal) => {
    const child = spawn(process.execPath, [cli, 'lab', 'up', '--name', 't-int', ...options], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const said: Buffer[] = [];
    child.stderr.on('data', (d: Buffer) => said.push(d));
    const dir = path.join(labsRoot(), 't-int');
    await waitFor('QEMU', () => (processesNaming(`${dir}/`).length > 0 ? true : undefined), {
      timeoutMs: 60_000,
      intervalMs: 5,
    });
    const exited = once(child, 'exit');
    child.kill(signal);
    expect((await exited)[0]).toBe(130);
    expect(Buffer.concat(said).toString()).toContain(`hyperturtle: interrupted by ${signal}\n`);
    expect(processesNaming(`${dir}/`)).toEqual([]);
    expect(existsSync(dir)).toBe(false);
  });
});

describe('a machine that does not boot', () => {
  /** The real artifacts, with other kernel arguments for one level. */
  const withArgs =
    (level: 0 | 1, args: string): PrepareArtifacts =>
    async (o) => {
      const a: Artifacts = await prepareArtifacts(o);
      return { ...a, kernelArgs: (n) => (n === level ? `${a.kernelArgs(n)} ${args}` : a.kernelArgs(n)) };
    };

  it.each([0, 1] as const)('L%i: is told with the end of its console, and nothing is left', async (level) => {
    const broken = labUp({ name: 't-broken', ...SPEC }, withArgs(level, 'rdinit=/nowhere root=/dev/none'));
    await expect(broken).rejects.toMatchObject({
      code: 'HT_BOOT_FAILED',
      message: expect.stringMatching(new RegExp(`^L${level} did not boot: `)) as string,
      detail: { level, tail: expect.stringContaining('Kernel panic') as string },
    });
    const dir = path.join(labsRoot(), 't-broken');
    expect(existsSync(dir)).toBe(false);
    expect(processesNaming(`${dir}/`)).toEqual([]);
  });
});
