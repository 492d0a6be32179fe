/** For which kernels dkms builds, and what is said when it does not: the shipped scripts run with a dkms of the test's. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { dkmsFailure, exclusiveKernels, fillIn, kernelRange } from '../../../src/install/dkms.ts';
import { dkmsPostinst } from '../../../src/install/deb-scripts.ts';
import { runPlan } from '../../../src/install/run.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-dkms-'));
});
afterEach(() => rmSync(dir, { recursive: true }));
const at = (name: string): string => path.join(dir, name);

/** As dkms does: bash's =~ with the text of dkms.conf. */
function admitted(release: string, pattern: string): boolean {
  const r = spawnSync('bash', ['-c', '[[ $1 =~ $2 ]]', 'x', release, pattern]);
  return r.status === 0;
}

describe('BUILD_EXCLUSIVE_KERNEL', () => {
  const pattern = exclusiveKernels(['6.12', '6.1', '7.3']);
  it.each([
    '6.1.0-56-amd64',
    '6.12.117+deb13-cloud-amd64',
    '6.8.0-31-generic',
    '6.19.3',
    '7.0.1',
    '7.3.4+deb13-amd64',
    '7.3-rc1',
  ])('admits %s, from the oldest to the newest series that was tried', (release) =>
    expect(admitted(release, pattern)).toBe(true),
  );
  it.each(['5.15.0-100-generic', '6.0.19', '7.4.0', '7.30.1', '8.0.0', '16.1.0', '5.14.0-570.el9.x86_64'])(
    'does not admit %s',
    (release) => expect(admitted(release, pattern)).toBe(false),
  );
  it('is that of the series that the tests of the lab run on', () => {
    const conf = fillIn(readFileSync('dist-files/dkms/dkms.conf', 'utf8'), '1.2.3');
    const written = /^BUILD_EXCLUSIVE_KERNEL="(.*)"$/m.exec(conf)?.[1] ?? '';
    for (const series of Object.values(kernelRange())) expect(admitted(`${series}.5-x`, written)).toBe(true);
    expect(conf).not.toMatch(/@[A-Z]+@/);
    // with it a failure is the kernel package's
    expect(conf).not.toMatch(/^AUTOINSTALL/m);
    // what was built for one kernel has the layout of its structs
    expect(conf).toMatch(/^NO_WEAK_MODULES="yes"$/m);
  });
});

describe('what the packages of kernels run', () => {
  /** A dkms that says `output`, ends with `status`, and writes what it was asked. */
  function machine(o: { output: string; status: number; log?: string; installed?: boolean }): {
    hook: string;
    env: NodeJS.ProcessEnv;
  } {
    for (const d of ['bin', 'src', 'lib/6.9.1-x/build/include', 'log']) mkdirSync(at(d), { recursive: true });
    writeFileSync(at('log/make.log'), o.log ?? '');
    const dkms = `#!/bin/sh\necho "$@" >>${at('asked')}\nif [ "$1" = status ]; then ${o.installed ? "echo 'hyperturtle/1.2.3, 6.9.1-x, x86_64: installed'" : ':'}; exit 0; fi\necho '${o.output}'\nexit ${o.status}\n`;
    const script = (name: string, text: string): void => {
      writeFileSync(at(name), text);
      chmodSync(at(name), 0o755);
    };
    script('bin/dkms', dkms);
    const own = (name: string): string =>
      fillIn(readFileSync(`dist-files/dkms/${name}`, 'utf8'), '1.2.3')
        .replaceAll('/usr/src/hyperturtle-1.2.3', at('src'))
        .replaceAll('/var/lib/dkms/hyperturtle/1.2.3/build', at('log'))
        .replaceAll('/lib/modules', at('lib'));
    script('src/why-not-built', own('why-not-built'));
    script('hook', own('kernel-hook'));
    return { hook: at('hook'), env: { ...process.env, PATH: `${at('bin')}:${process.env['PATH']}` } };
  }
  const run = (m: ReturnType<typeof machine>, kernel: string): { status: number | null; text: string } => {
    const r = spawnSync(m.hook, [kernel, '/boot/vmlinuz'], { env: m.env, encoding: 'utf8' });
    return { status: r.status, text: `${r.stdout}${r.stderr}` };
  };
  const asked = (): string => readFileSync(at('asked'), 'utf8');

  it('has dkms build for that kernel', () => {
    expect(run(machine({ output: 'done', status: 0 }), '6.9.1-x')).toMatchObject({ status: 0 });
    expect(asked()).toContain('install hyperturtle/1.2.3 -k 6.9.1-x');
  });

  it('does not build twice, nor without headers', () => {
    expect(run(machine({ output: '', status: 0, installed: true }), '6.9.1-x').status).toBe(0);
    expect(asked()).not.toContain('install');
    rmSync(at('asked'));
    expect(run(machine({ output: '', status: 1 }), '6.9.2-x')).toEqual({ status: 0, text: '' });
  });

  it('says the first errors of the compiler, and succeeds', () => {
    const log =
      'DKMS make.log for hyperturtle-1.2.3 for kernel 6.9.1-x (x86_64)\na.c:1:2: error: no member named root\nmake: *** Error 1\n';
    const r = run(machine({ output: 'Bad return status', status: 10, log }), '6.9.1-x');
    expect(r.status).toBe(0);
    expect(r.text).toContain('no modules for Linux 6.9.1-x');
    expect(r.text).toContain('a.c:1:2: error: no member named root');
    expect(r.text).toContain('to try again: dkms install hyperturtle/1.2.3 -k 6.9.1-x');
  });

  it('does not take the log of a kernel whose name begins the same for its own', () => {
    const log =
      'DKMS make.log for hyperturtle-1.2.3 for kernel 6.9.1-x2 (x86_64)\na.c:1:2: error: of the other\n';
    const r = run(machine({ output: 'no headers here', status: 21, log }), '6.9.1-x');
    expect(r.text).toContain('  no headers here');
    expect(r.text).not.toContain('of the other');
  });

  it('says for which kernels they are where this one is excluded', () => {
    const { oldest, newest } = kernelRange();
    const r = run(machine({ output: 'excluded', status: 77 }), '6.9.1-x');
    expect(r).toMatchObject({
      status: 0,
      text: expect.stringContaining(`Linux ${oldest} to ${newest}`) as unknown,
    });
    expect(r.text).not.toContain('to try again');
  });

  it('leaves the package configured when a build fails in its installation', () => {
    const m = machine({ output: '', status: 0 });
    mkdirSync(at('dkms'));
    writeFileSync(at('dkms/common.postinst'), '#!/bin/sh\necho Building\nexit 10\n');
    chmodSync(at('dkms/common.postinst'), 0o755);
    const script = dkmsPostinst('1.2.3')
      .replaceAll('/usr/lib/dkms', at('dkms'))
      .replaceAll('/usr/src/hyperturtle-1.2.3', at('src'));
    const r = spawnSync('sh', ['-c', script, 'postinst', 'configure'], { env: m.env, encoding: 'utf8' });
    expect(r.status).toBe(0);
    expect(`${r.stdout}${r.stderr}`).toMatch(/Building\n.*no modules for Linux/s);
  });
});

describe('the package, where a kernel that does not run fails to build', () => {
  it.each([
    [
      'Building for 6.1.0-x and 6.9.1-x\nBuilding initial module for 6.1.0-x\nDone.\nBuilding initial module for 6.9.1-x\nError! Bad return status',
      '6.9.1-x',
    ],
    [
      'Error! Bad return status for module build on kernel: 6.9.1-x (x86_64)\nBuilding initial module for 6.9.1-x',
      '6.9.1-x',
    ],
    ['Done.\nModule hyperturtle-1.2.3 for kernel 6.9.3-x (x86_64).\nError!', '6.9.3-x'],
    ['Building', spawnSync('uname', ['-r'], { encoding: 'utf8' }).stdout.trim()],
  ])('names the one that failed (%#)', (output, kernel) => {
    mkdirSync(at('dkms'));
    writeFileSync(at('dkms/common.postinst'), `#!/bin/sh\ncat <<'EOF'\n${output}\nEOF\nexit 10\n`);
    chmodSync(at('dkms/common.postinst'), 0o755);
    mkdirSync(at('src'));
    writeFileSync(at('src/why-not-built'), 'echo "not built: $1"\n');
    const script = dkmsPostinst('1.2.3')
      .replaceAll('/usr/lib/dkms', at('dkms'))
      .replaceAll('/usr/src/hyperturtle-1.2.3', at('src'));
    const r = spawnSync('sh', ['-c', script, 'postinst', 'configure'], { encoding: 'utf8' });
    expect([r.status, r.stdout.trim().split('\n').at(-1)]).toEqual([0, `not built: ${kernel}`]);
  });
});

describe('installing without a module that could be built', () => {
  const failed = (status: number): HyperturtleError =>
    new HyperturtleError('HT_COMMAND_FAILED', 'dkms: status', { detail: { status, tail: 'the tail' } });

  const built = (kernel: string, log: string): { kernel: string; log: string; kept: string } => ({
    ...{ kernel, log: at(log), kept: at('state/kept.log') },
  });

  it('tells the kernels that there are modules for', async () => {
    expect(await dkmsFailure(failed(77), built('9.9.9', 'none'))).toMatchObject({
      code: 'HT_UNSUPPORTED',
      message: expect.stringMatching(/no modules for Linux 9\.9\.9: .*--no-module/) as unknown,
    });
  });

  it('tells the errors of the compiler, or the end of what dkms said', async () => {
    const log =
      'DKMS make.log for hyperturtle-1.0.0 for kernel 6.1.0 (x86_64)\na.c:1: error: x\nmake: Error 2\n';
    writeFileSync(at('log'), log);
    expect(await dkmsFailure(failed(10), built('6.1.0', 'log'))).toMatchObject({
      message: expect.stringContaining('a.c:1: error: x\nmake: Error 2\n(the whole build:') as unknown,
    });
    // the log goes when the build is undone
    expect(readFileSync(at('state/kept.log'), 'utf8')).toBe(log);
    // of another kernel: for this one nothing was begun
    expect(await dkmsFailure(failed(21), built('6.1.1', 'log'))).toMatchObject({
      message: expect.stringMatching(/:\nthe tail$/) as unknown,
    });
    expect(await dkmsFailure(failed(10), built('6.1.0', 'none'))).toMatchObject({
      message: expect.stringContaining('the tail') as unknown,
    });
  });

  it('ends at once below /proc, where no directory can be made', async () => {
    const step = {
      kind: 'write' as const,
      path: '/a/b',
      content: Buffer.from('x'),
      mode: 0o644,
      before: 'absent' as const,
    };
    await expect(runPlan({ steps: [step], left: [] }, '/proc/none', { say: () => {} })).rejects.toThrow(
      /\/proc\/none\/a: the directory cannot be made/,
    );
  });

  it('takes back what dkms was told of them', async () => {
    const step = {
      kind: 'run' as const,
      argv: ['false'],
      dkms: built('6.1.0', 'none'),
      undo: [['touch', at('undone')]],
    };
    await expect(runPlan({ steps: [step], left: [] }, '/', { say: () => {} })).rejects.toMatchObject({
      message: expect.stringContaining('dkms did not build the modules for Linux 6.1.0') as unknown,
    });
    expect(readFileSync(at('undone'), 'utf8')).toBe('');
  });
});
