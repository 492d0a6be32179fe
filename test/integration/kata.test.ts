/**
 * `hyperturtle kata` on machines that are directories, with stand-ins for Kata's programs: a shim that tells its version,
 * a kata-runtime that reads config.d as Kata's does, and VMMs that say how they were started. Kata itself is not here.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { compiledSources } from '../support/compiled.ts';
import { CONFIGURATIONS, SHARE, VMMS, put, putShim } from '../support/kata-root.ts';

const LAUNCHERS = '/usr/lib/hyperturtle/vmm';
const NAME = '80-hyperturtle.toml';
const GO = '/opt/kata/bin/containerd-shim-kata-v2';
const RS = '/opt/kata/runtime-rs/bin/containerd-shim-kata-v2';

let cli: string;
let root: string;
beforeAll(() => {
  cli = path.join(compiledSources(), 'cli/main.js');
}, 300_000);
beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), 'ht-kata-'));
  for (const vmm of VMMS) put(root, vmm, '#!/bin/sh\n', 0o755);
});
afterEach(() => rmSync(root, { recursive: true }));

interface Ended {
  status: number | null;
  out: string;
  err: string;
}

function kata(...words: string[]): Ended {
  const r = spawnSync(process.execPath, [cli, 'kata', ...words, '--root', root], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  return { status: r.status, out: r.stdout, err: r.stderr };
}

/** Every file, link and directory, with what is in it. */
function tree(): Map<string, string> {
  const found = new Map<string, string>();
  for (const e of readdirSync(root, { recursive: true, withFileTypes: true })) {
    const at = path.join(e.parentPath, e.name);
    const is = e.isSymbolicLink()
      ? `-> ${readlinkSync(at)}`
      : e.isDirectory()
        ? ''
        : readFileSync(at, 'utf8');
    found.set(path.relative(root, at), is);
  }
  return found;
}

interface Row {
  config: string;
  state: string;
  why?: string;
  version?: string;
}
function rows(): Row[] {
  const { out } = kata('status', '--json');
  return (JSON.parse(out) as { configurations: Row[] }).configurations;
}

const deployed = (runtime: string): string => `${SHARE}/runtimes/${runtime}/configuration-${runtime}.toml`;

/** Says what Kata's own says of `--config FILE env --json`, and, as Go's reader, refuses keys that it does not know. */
function putRuntime(
  known = 'path|valid_[a-z_]*|jailer_path|hot_plug_vfio|cold_plug_vfio|pcie_root_port',
): void {
  put(
    root,
    '/opt/kata/bin/kata-runtime',
    `#!/bin/sh
[ "$1" = --config ] && [ "$3 $4" = "env --json" ] || exit 9
for f in "\${2%/*}"/config.d/* "\${2%/*}"/config.d/.[!.]*; do
  [ -e "$f" ] || continue
  case $f in *.toml) ;; *) echo "half a file: $f" >&2; exit 8 ;; esac
  bad=$(grep -Ev '^(#|\\[|$)' "$f" | grep -Ev '^(${known}) =') && { echo "key not found: $bad" >&2; exit 1; }
done
path=$(cat "$2" "\${2%/*}"/config.d/* 2>/dev/null | sed -n 's/^path = "\\(.*\\)"$/\\1/p' | tail -1)
echo "{\\"Hypervisor\\": {\\"Path\\": \\"$path\\"}}"
`,
    0o755,
  );
}

describe('hyperturtle kata', () => {
  it('puts a drop-in beside each configuration of kata-deploy that has a directory of its own, and takes it away', () => {
    putShim(root, GO, 'Golang', '4.1.0');
    putShim(root, RS, 'Rust', '4.1.0');
    putRuntime();
    put(root, deployed('qemu'), CONFIGURATIONS['go 3.31 qemu']);
    put(root, deployed('clh'), CONFIGURATIONS['go 3.31 clh']);
    put(root, deployed('fc'), CONFIGURATIONS['go 4.1 fc']);
    put(root, deployed('qemu-snp'), CONFIGURATIONS['go 4.1 snp']);
    put(root, deployed('qemu-runtime-rs'), CONFIGURATIONS['rs 4.1 qemu']);
    put(root, deployed('dragonball'), CONFIGURATIONS['rs 4.1 dragonball']);
    const helm = `${SHARE}/runtimes/qemu/config.d/50-user-overrides.toml`;
    put(root, helm, '[hypervisor.qemu]\ndefault_memory = 4096\n');
    const before = tree();
    expect(kata('install')).toMatchObject({ status: 0, err: '' });
    const after = tree();
    for (const [file, text] of before) expect(after.get(file), file).toBe(text);
    const said = [...after.keys()].filter((f) => !before.has(f) && after.get(f) !== '');
    expect(said.sort()).toEqual(
      [
        'var/lib/hyperturtle/kata.json',
        ...['qemu-system-x86_64', 'cloud-hypervisor', 'jailer'].map((n) =>
          `${LAUNCHERS}/opt/kata/bin/${n}`.slice(1),
        ),
        ...['qemu', 'clh', 'fc', 'qemu-runtime-rs'].map((n) =>
          `${SHARE}/runtimes/${n}/config.d/${NAME}`.slice(1),
        ),
      ].sort(),
    );
    expect(Object.fromEntries(rows().map((r) => [r.config.split('/').at(-2), r.state]))).toEqual({
      qemu: 'set up',
      clh: 'set up',
      fc: 'set up',
      'qemu-snp': 'cannot be',
      'qemu-runtime-rs': 'set up',
      dragonball: 'cannot be',
    });
    // again: nothing is written, and one without its VMM keeps no other from being looked after
    rmSync(path.join(root, '/opt/kata/bin/cloud-hypervisor'));
    expect(kata('install').out).toContain("its VMM '/opt/kata/bin/cloud-hypervisor' is not there");
    put(root, '/opt/kata/bin/cloud-hypervisor', '#!/bin/sh\n', 0o755);
    expect(kata('install').out).not.toMatch(/^(write|replace|link)/m);
    expect(tree()).toEqual(after);
    expect(kata('uninstall')).toMatchObject({ status: 0, err: '' });
    expect(tree()).toEqual(before);
    expect(kata('uninstall').out).toBe('nothing to do\n');
  });

  it('copies a configuration beside which others would read the drop-in, and has the default lead there', () => {
    putShim(root, GO, 'Golang', '3.31.0');
    putRuntime();
    put(root, `${SHARE}/configuration-qemu.toml`, CONFIGURATIONS['go 3.31 qemu']);
    put(root, `${SHARE}/configuration-clh.toml`, CONFIGURATIONS['go 3.31 clh']);
    symlinkSync('configuration-qemu.toml', path.join(root, SHARE, 'configuration.toml'));
    put(root, `${SHARE}/config.d/10-memory.toml`, '[runtime]\nenable_debug = true\n');
    putRuntime('path|valid_[a-z_]*|enable_debug');
    const before = tree();
    const dir = '/etc/kata-containers/hyperturtle-qemu';
    expect(kata('install')).toMatchObject({ status: 0, err: '' });
    expect(readlinkSync(path.join(root, 'etc/kata-containers/configuration.toml'))).toBe(
      `${dir}/configuration.toml`,
    );
    expect(readdirSync(path.join(root, dir, 'config.d'))).toEqual(['10-memory.toml', NAME]);
    expect(rows()).toMatchObject([
      { config: `${dir}/configuration.toml`, state: 'set up', version: '3.31.0' },
    ]);
    // a second one, for a hypervisor that is not the default's, is read when containerd names it
    const clh = '/etc/kata-containers/hyperturtle-clh/configuration.toml';
    expect(kata('install', '--hypervisor', 'clh').out).toContain(`ConfigPath = "${clh}"`);
    expect(rows().find((r) => r.config === clh)).toMatchObject({
      state: 'broken',
      why: expect.any(String) as string,
    });
    put(root, '/etc/containerd/config.toml', `[a]\n  ConfigPath = "${clh}"\n`);
    expect(rows().map((r) => r.state)).toEqual(['set up', 'set up']);
    // the original changes, as by an update
    put(root, `${SHARE}/configuration-qemu.toml`, `${CONFIGURATIONS['go 3.31 qemu']}# new\n`);
    expect(kata('status').status).toBe(1);
    expect(kata('install')).toMatchObject({ status: 0 });
    expect(kata('status').status).toBe(0);
    put(root, `${SHARE}/configuration-qemu.toml`, CONFIGURATIONS['go 3.31 qemu']);
    const used = kata('uninstall');
    expect([used.status, used.err]).toEqual([
      23,
      expect.stringContaining('/etc/containerd/config.toml names'),
    ]);
    rmSync(path.join(root, 'etc/containerd'), { recursive: true });
    expect(kata('uninstall').status).toBe(0);
    expect(new Map([...tree()].filter(([f]) => f !== 'etc'))).toEqual(before); // containerd's, of this test
  });

  it("leaves a user's configuration as it is, and takes its word for what is a list", () => {
    putShim(root, '/usr/bin/containerd-shim-kata-v2', 'Golang', '3.2.0');
    put(root, '/etc/kata-containers/configuration.toml', CONFIGURATIONS['go 3.2 qemu']);
    expect(kata('install', '--nic', 'hot').status).toBe(0);
    const dropIn = readFileSync(path.join(root, 'etc/kata-containers/config.d', NAME), 'utf8');
    expect(dropIn).toContain('hot_plug_vfio = "root-port"\npcie_root_port = 2\n');
    expect(dropIn).not.toContain('file_mem_backend');
    // what Kata names changes below it
    put(root, '/etc/kata-containers/configuration.toml', CONFIGURATIONS['go 3.31 qemu']);
    expect(rows()).toMatchObject([
      { state: 'broken', why: expect.stringContaining('now names /opt') as string },
    ]);
    put(
      root,
      '/etc/kata-containers/config.d/90-mine.toml',
      '[hypervisor.qemu]\npath = "/usr/bin/qemu-system-x86_64"\n',
    );
    expect(rows()).toMatchObject([
      { state: 'broken', why: expect.stringContaining('a later drop-in') as string },
    ]);
    const r = kata('install');
    expect([r.status, r.err]).toEqual([26, expect.stringContaining('90-mine.toml')]);
    expect(kata('uninstall').status).toBe(0);
    expect(readdirSync(path.join(root, 'etc/kata-containers/config.d'))).toEqual(['90-mine.toml']);
  });

  it('refuses what it does not know in one line, and changes nothing', () => {
    const refused = (...words: string[]): string => {
      const before = tree();
      const { status, err } = kata('install', ...words);
      expect([status === 0, err.trim().split('\n').length]).toEqual([false, 1]);
      expect(tree()).toEqual(before);
      return err;
    };
    expect(refused()).toContain('no Kata on this machine: none of /usr/local/bin/containerd-shim-kata-v2');
    putShim(root, GO, 'Golang', '3.1.3');
    expect(refused()).toContain('looked for /etc/kata-containers/[runtime-rs/]configuration.toml');
    expect(refused('--config', '/nowhere.toml')).toContain('/nowhere.toml: no such file');
    put(root, deployed('qemu'), CONFIGURATIONS['go 3.31 qemu']);
    expect(refused()).toContain('is version 3.1.3: 3.2 or newer expected');
    putShim(root, GO, 'Golang', '4.1.0');
    expect(refused('--hypervisor', 'fc')).toContain('no configuration of Kata with fc');
    put(root, deployed('qemu-snp'), CONFIGURATIONS['go 4.1 snp']);
    rmSync(path.join(root, deployed('qemu')));
    expect(refused()).toContain('confidential guest');
    put(root, deployed('fc'), CONFIGURATIONS['go 4.1 fc']);
    expect(refused('--nic', 'cold')).toContain('Firecracker has no VFIO');
    rmSync(path.join(root, '/opt/kata/bin/jailer'));
    expect(refused()).toContain("its VMM '/opt/kata/bin/jailer' is not there");
    put(root, deployed('qemu'), 'x = \n');
    expect(refused()).toContain(`${deployed('qemu')}:1:`);
    put(root, deployed('qemu'), CONFIGURATIONS['go 3.31 qemu']);
    put(root, '/opt/kata/bin/jailer', '');
    put(root, `${SHARE}/runtimes/qemu/config.d/${NAME}`, 'mine = 1\n');
    expect(refused()).toContain("is there and not by 'kata install'");
  });

  it("undoes all when Kata's own program does not take the result", () => {
    putShim(root, GO, 'Golang', '4.1.0');
    put(root, deployed('qemu'), CONFIGURATIONS['go 3.31 qemu']);
    putRuntime('path');
    const before = tree();
    const { status, err } = kata('install');
    expect([status, err]).toEqual([26, expect.stringContaining('key not found: valid_hypervisor_paths')]);
    expect(tree()).toEqual(before);
    // one that it did not take before is not ours to judge
    put(root, `${SHARE}/runtimes/qemu/config.d/20-odd.toml`, 'odd = 1\n');
    expect(kata('install').out).toContain('not checked by kata-runtime');
  });

  /** Killed before it changes the file system for the n-th time. Whether it was, and so had as much to do. */
  function killedAt(n: number, ...words: string[]): boolean {
    const preload = path.join(root, 'tmp/kill.cjs');
    mkdirSync(path.dirname(preload), { recursive: true });
    writeFileSync(
      preload,
      `const fs = require('node:fs');
let left = ${n};
for (const name of ['writeFileSync', 'renameSync', 'symlinkSync', 'chmodSync', 'rmSync', 'rmdirSync']) {
  const call = fs[name];
  fs[name] = (...args) => {
    if (--left === 0) process.kill(process.pid, 'SIGKILL');
    return call(...args);
  };
}
require('node:module').syncBuiltinESMExports();`,
    );
    const r = spawnSync(process.execPath, ['--require', preload, cli, 'kata', ...words, '--root', root], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    rmSync(path.join(root, 'tmp'), { recursive: true });
    if (r.signal === 'SIGKILL') return true;
    expect([r.status, r.stderr]).toEqual([0, '']);
    return false;
  }

  /** All that Kata would read now names what is there. */
  function isWhole(): void {
    for (const [file, text] of tree()) {
      if (!file.includes('/config.d/')) continue;
      expect(path.basename(file)).toBe(NAME);
      const launcher = /^path = "(.*)"$/m.exec(text)?.[1] ?? '';
      expect(existsSync(path.join(root, launcher)), launcher).toBe(true);
    }
  }

  it('is killed at each of its steps: Kata never reads half of it, and the next run does all', () => {
    putShim(root, GO, 'Golang', '4.1.0');
    put(root, deployed('qemu'), CONFIGURATIONS['go 3.31 qemu']);
    put(root, `${SHARE}/configuration-qemu.toml`, CONFIGURATIONS['go 3.31 qemu']);
    put(root, `${SHARE}/configuration-clh.toml`, CONFIGURATIONS['go 3.31 clh']);
    symlinkSync('configuration-qemu.toml', path.join(root, SHARE, 'configuration.toml'));
    mkdirSync(path.join(root, 'var/lib/hyperturtle'), { recursive: true }); // the agent's
    const before = tree();
    const saved = (to: string): void => void spawnSync('cp', ['-a', root, to]);
    const restored = (from: string): void => {
      rmSync(root, { recursive: true });
      spawnSync('cp', ['-a', from, root]);
    };
    const [clean, done] = [`${root}-clean`, `${root}-done`];
    try {
      saved(clean);
      let n = 1;
      for (; killedAt(n, 'install'); n++) {
        isWhole();
        if (n % 4 === 0) {
          expect(kata('install')).toMatchObject({ status: 0, err: '' });
          expect(rows().map((r) => r.state)).toEqual(['set up', 'set up']);
        } else if (n % 2 === 1) {
          expect(kata('uninstall')).toMatchObject({ status: 0, err: '' });
          expect(tree()).toEqual(before);
        }
        restored(clean);
      }
      expect(n).toBeGreaterThan(20);
      saved(done);
      for (n = 1; killedAt(n, 'uninstall'); n++) {
        isWhole();
        if (n % 2 === 1) {
          expect(kata('uninstall')).toMatchObject({ status: 0, err: '' });
          expect(tree()).toEqual(before);
        }
        restored(done);
      }
      expect(n).toBeGreaterThan(10);
    } finally {
      for (const dir of [clean, done]) rmSync(dir, { recursive: true, force: true });
    }
    expect(tree()).toEqual(before);
  }, 900_000);
});

describe('a launcher', () => {
  let launcher: string;
  let vmm: string;
  beforeEach(() => {
    vmm = path.join(root, 'qemu-system-x86_64');
    putShim(root, GO, 'Golang', '4.1.0');
    put(root, vmm, ''); // where it is on the machine whose root directory this is
    put(root, '/etc/kata-containers/configuration.toml', `[hypervisor.qemu]\npath = "${vmm}"\n`);
    expect(kata('install')).toMatchObject({ status: 0, err: '' });
    launcher = path.join(root, LAUNCHERS, vmm);
    writeFileSync(
      vmm,
      `#!/bin/sh
echo "pid $$"; for a; do echo "arg $a"; done
for n in 3 4 5 10 11 12 13; do echo "fd $n $(readlink /proc/$$/fd/$n)"; done
echo "file $(cat <&3)"
echo "stdin $(cat)"
[ "$1" = sleep ] && exec sleep 60
exit 7
`,
    );
    chmodSync(vmm, 0o755);
  });

  function start(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    const file = path.join(root, 'given');
    writeFileSync(file, 'what was passed');
    // as Kata passes taps, vhost-net, vsock and the socket of its monitor: any number, from 3 on
    const fds = Array.from({ length: 11 }, (_, i) =>
      i === 0 ? openSync(file, 'r') : i === 1 ? 'pipe' : openSync('/proc/version', 'r'),
    );
    return spawn(launcher, args, {
      stdio: ['pipe', 'pipe', 'pipe', ...fds],
      env: { ...process.env, ...env },
    });
  }

  async function run(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended & { pid: number }> {
    const child = start(args, env);
    child.stdin!.end('typed');
    let [out, err] = ['', ''];
    child.stdout!.on('data', (d) => (out += String(d)));
    child.stderr!.on('data', (d) => (err += String(d)));
    const [status] = (await once(child, 'close')) as [number | null];
    return { status, out, err, pid: child.pid! };
  }

  const asItsOwn = (r: Ended & { pid: number }, args: readonly string[]): void => {
    const lines = r.out.split('\n');
    expect(lines).toContain(`pid ${r.pid}`);
    expect(lines.filter((l) => l.startsWith('arg '))).toEqual(args.map((a) => `arg ${a}`));
    expect(lines).toContain('file what was passed');
    expect(lines).toContain('stdin typed');
    const fds = lines.filter((l) => l.startsWith('fd '));
    expect(fds[0]).toBe(`fd 3 ${path.join(root, 'given')}`);
    expect(fds[1]).toMatch(/^fd 4 (socket|pipe):/);
    for (const l of fds.slice(2)) expect(l).toMatch(/ \/proc\/version$/);
    expect(r.status).toBe(7);
  };

  it('starts the VMM as its own where there is no turtlefs, and says so', async () => {
    const args = ['-name', 'sandbox-1', 'a b', '$HOME', '', '--version'];
    const r = await run(args);
    asItsOwn(r, args);
    expect(r.err).toMatch(
      /^hyperturtle vmm: qemu-system-x86_64 is started without acceleration: turtlefs is not mounted/,
    );
  });

  it('starts it when this program has gone', async () => {
    writeFileSync(launcher, readFileSync(launcher, 'utf8').replace(/^script=.*$/m, "script='/nowhere'"));
    const r = await run(['x']);
    asItsOwn(r, ['x']);
    expect(r.err).toContain('is started without acceleration');
  });

  it("asks the VMM's version of the VMM alone", async () => {
    writeFileSync(launcher, readFileSync(launcher, 'utf8').replace(/^node=.*$/m, "node='/bin/false'"));
    for (const word of ['--version', '-version']) asItsOwn(await run([word]), [word]);
  });

  it('fails where it was told to rather than start it without', async () => {
    expect(kata('install', '--strict').status).toBe(0);
    const r = await run(['x']);
    expect([r.status, r.out]).toEqual([24, '']);
  });

  it.skipIf(process.getuid?.() !== 0)('starts it with its memory from there', async () => {
    const ram = path.join(root, 'ram');
    mkdirSync(ram);
    spawnSync('mount', ['-t', 'tmpfs', 'none', ram]);
    try {
      const text = readFileSync(launcher, 'utf8');
      writeFileSync(launcher, text.replace(' vmm ', ` vmm --dir ${ram} `));
      const r = await run(['x']);
      asItsOwn(r, ['x']);
      expect(r.err).toContain('none of its memory came from here');
      // and its signals are its own
      const child = start(['sleep']);
      child.stdin!.end();
      await once(child.stdout!, 'data');
      child.kill('SIGTERM');
      expect((await once(child, 'exit')) as unknown[]).toEqual([null, 'SIGTERM']);
    } finally {
      spawnSync('umount', ['-l', ram]);
    }
  });
});
