import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Writable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { waitFor } from '../../../../src/core/wait.ts';
import { vmNameOf } from '../../../../src/guest/agent/vms.ts';
import { isElf, resolveImage } from '../../../../src/guest/run/image.ts';
import { RUN_INIT, UDHCPC_SCRIPT, commandScript, settingsScript } from '../../../../src/guest/run/init.ts';
import type { GuestSettings } from '../../../../src/guest/run/init.ts';
import { moduleOrder, needsLoader } from '../../../../src/guest/run/initramfs.ts';
import { firmwareFor, runArguments, runModules } from '../../../../src/guest/run/spec.ts';
import type { RunSpec } from '../../../../src/guest/run/spec.ts';
import { SUPERVISOR, undoScript } from '../../../../src/guest/run/supervisor.ts';
import { parseCpuList } from '../../../../src/qmp/pin.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'run-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const spec: RunSpec = {
  name: 'redis1',
  memMib: 256,
  cpus: 2,
  ram: 'turtlefs',
  kernel: '/boot/vmlinuz',
  initrd: '/i',
  append: '',
  machine: 'pc',
  firmware: 'qboot.rom',
  console: 'stream',
  balloon: false,
  qemu: 'qemu-system-x86_64',
  root: { path: '/images/a,b.erofs', fileSystem: 'erofs' },
  net: { kind: 'none' },
};
const settings: GuestSettings = {
  rootType: 'erofs',
  hostname: "it's",
  address: '10.0.0.2/24',
  terminal: false,
  status: true,
  env: ['A=b c'],
  command: ['/bin/echo', "it's", '$x'],
};

describe("a run's VMM", () => {
  it('has its memory on turtlefs, the image read-only, and no network unless asked', () => {
    const args = runArguments(spec);
    expect(args).toContain(
      'memory-backend-file,id=ram,mem-path=/run/hyperturtle/ram,size=256M,share=on,align=2M',
    );
    expect(args).toContain('driver=file,node-name=root,filename=/images/a,,b.erofs,read-only=on');
    expect(args.join(' ')).not.toMatch(/netdev|vfio|balloon/);
  });

  it('has no HPET, which wakes QEMU 10 up without end, where the machine could have one', () => {
    const machine = (type: string): string | undefined => {
      const args = runArguments({ ...spec, machine: type });
      return args[args.indexOf('-machine') + 1];
    };
    expect(machine('pc')).toBe('pc,hpet=off,memory-backend=ram');
    expect(machine('q35')).toBe('q35,hpet=off,memory-backend=ram');
    expect(machine('microvm')).toBe('microvm,memory-backend=ram');
  });

  it('gets a tap on a bridge, or a NIC by VFIO', () => {
    const net = { kind: 'bridge', bridge: 'br0', tap: 'ht-1', mac: '52:54:00:00:00:01' } as const;
    expect(runArguments({ ...spec, net })).toContain('tap,id=net0,ifname=ht-1,script=no,downscript=no');
    const direct = { kind: 'direct', address: '0000:08:00.0' } as const;
    expect(runArguments({ ...spec, net: direct })).toContain('vfio-pci,id=net0,host=0000:08:00.0,rombar=0');
    expect(runArguments({ ...spec, net }).join(' ')).not.toContain('vfio');
    expect(runModules({ ...spec, net: direct })).toContain('virtio_net');
  });

  it('starts an ELF kernel beside a NIC by VFIO without qboot, which would read zeros over it', () => {
    const direct = { kind: 'direct', address: '0000:08:00.0' } as const;
    const kernel = path.join(dir, 'kernel');
    const firmware = (asked: string | undefined, net: RunSpec['net']): string | undefined =>
      firmwareFor(asked, net, () => isElf(kernel));
    writeFileSync(kernel, '\x7fELF\x02', 'latin1');
    expect(firmware(undefined, direct)).toBeUndefined();
    expect(firmware(undefined, { kind: 'none' })).toBe('qboot.rom');
    // what is asked for is done
    expect(firmware('qboot.rom', direct)).toBe('qboot.rom');
    expect(firmware('default', { kind: 'none' })).toBeUndefined();
    writeFileSync(kernel, 'MZ');
    expect(firmware(undefined, direct)).toBe('qboot.rom');
    // that there is none is told by others
    rmSync(kernel);
    expect(firmware(undefined, direct)).toBe('qboot.rom');
  });

  it("has the run's name, which is then the guest's in status, top, doctor, profiles and the dashboard", () => {
    expect(vmNameOf(runArguments(spec))).toBe('redis1');
    expect(vmNameOf(runArguments({ ...spec, name: 'a_b.c-31-letters-are-what-is-ke' }))).toHaveLength(31);
  });

  it('is refused memory that no kernel boots in', () => {
    expect(() => runArguments({ ...spec, memMib: 8 })).toThrow(/--memory: MiB >= 64/);
  });
});

describe('what the guest is given', () => {
  it('are scripts that a shell understands', () => {
    for (const script of [
      RUN_INIT,
      UDHCPC_SCRIPT,
      SUPERVISOR,
      settingsScript(settings),
      commandScript(settings),
    ])
      expect(spawnSync('sh', ['-n'], { input: script }).stderr.toString()).toBe('');
  });

  it('keeps words of settings and command as they are', () => {
    const said = spawnSync('sh', ['-c', `${settingsScript(settings)}\nprintf %s "$HOSTNAME|$ADDRESS"`]);
    expect(said.stdout.toString()).toBe("it's|10.0.0.2/24");
    const command = commandScript(settings).replace("'/bin/chroot' '/root' ", '').replace('exec ', '');
    const ran = spawnSync('sh', [
      '-c',
      command.replace("'/bin/echo'", "'/bin/sh' '-c' 'echo \"$A|$1|$2\"' 'sh'"),
    ]);
    expect(ran.stdout.toString()).toBe("b c|it's|$x\n");
  });

  it("runs in the image's directory and as its user, where it names some", () => {
    expect(commandScript(settings)).toContain("'/bin/chroot' '/root' '/bin/echo'");
    const script = commandScript({
      ...settings,
      ...{ workingDir: '/srv/a b', user: { uid: 7, gid: 8, home: '/w' } },
    });
    expect(script).toMatch(/^chown 7 \/dev\/hvc0\nexec /);
    expect(script).toContain(
      "'HOME=/w' 'A=b c' '/bin/nsenter' '-F' '-r/root' '-w/root/srv/a b' '-G' '8' '-S' '7' '/bin/echo'",
    );
    expect(spawnSync('sh', ['-n'], { input: script }).stderr.toString()).toBe('');
  });

  it('has modules in the order in which they can be loaded, without those that are built in', () => {
    const dep = ['k/a.ko: k/b.ko k/c.ko', 'k/b.ko: k/c.ko', 'k/c.ko.xz:', 'k/x-y.ko: k/c.ko.xz'].join('\n');
    expect(moduleOrder(dep.replaceAll('k/c.ko\n', 'k/c.ko.xz\n'), 'k/in.ko\n', ['a', 'x_y', 'in'])).toEqual([
      ...['k/c.ko.xz', 'k/b.ko', 'k/a.ko', 'k/x-y.ko'],
    ]);
    expect(() => moduleOrder(dep, '', ['zfs'])).toThrow(/kernel module zfs/);
  });

  it('has programs that need no library', () => {
    expect(needsLoader(readFileSync(process.execPath))).toBe(true);
  });
});

describe('an image', () => {
  const file = (name: string, offset: number, magic: string): string => {
    const bytes = Buffer.alloc(4096);
    bytes.write(magic, offset, 'hex');
    const where = path.join(dir, name);
    writeFileSync(where, bytes);
    return where;
  };

  it('is told by its magic number, and what it says of itself is beside it', () => {
    file('a.erofs', 1024, 'e2e1f5e0');
    writeFileSync(
      path.join(dir, 'a.json'),
      JSON.stringify({ schema: 1, name: 'a', command: ['/x'], memMib: 64 }),
    );
    expect(resolveImage('a', [dir])).toMatchObject({
      name: 'a',
      root: { fileSystem: 'erofs' },
      about: { command: ['/x'] },
    });
    expect(resolveImage(file('b', 1080, '53ef')).root).toMatchObject({ fileSystem: 'ext4' });
    expect(resolveImage(file('c', 0, '68737173')).root).toMatchObject({ fileSystem: 'squashfs' });
  });

  it('may be a directory', () => {
    expect(resolveImage(`${dir}/`)).toMatchObject({
      root: { directory: dir },
      about: undefined,
    });
  });

  it('that is none is refused with what to do', () => {
    expect(() => resolveImage('nope', [dir])).toThrow(/image 'nope': not in/);
    expect(() => resolveImage('./nope')).toThrow(/no such file/);
    expect(() => resolveImage(file('d', 0, '00'))).toThrow(/expected erofs, squashfs or ext4/);
    execFileSync('mkfifo', [path.join(dir, 'pipe')]);
    expect(() => resolveImage(path.join(dir, 'pipe'))).toThrow(
      /pipe is a named pipe: a file, a directory or a/,
    );
    expect(() => resolveImage('/dev/zero')).toThrow(/zero is a character device/);
  });
});

describe('the supervisor', () => {
  /** `qemu` in the place of QEMU. */
  function supervise(qemu: string) {
    const made = path.join(dir, 'made');
    mkdirSync(made);
    const child = spawn('sh', ['-c', SUPERVISOR, 'sh', undoScript(made, {}), 'sh', '-c', qemu], {
      stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
      detached: true,
    });
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
    return { made, ended, lifeline: child.stdio[3] as Writable };
  }

  it('ends with the status of its VMM, and removes what the run made', async () => {
    const s = supervise('exit 5');
    expect(await s.ended).toBe(5);
    expect(existsSync(s.made)).toBe(false);
    s.lifeline.destroy();
  });

  it('kills the VMM and removes what the run made when the other end of its pipe is gone', async () => {
    const pidFile = path.join(dir, 'pid');
    const s = supervise(`echo $$ > ${pidFile}.new; mv ${pidFile}.new ${pidFile}; exec sleep 1000`);
    await waitFor('the VMM', () => (existsSync(pidFile) ? true : undefined), { timeoutMs: 5000 });
    s.lifeline.destroy();
    expect(await s.ended).toBe(137);
    expect(existsSync(s.made)).toBe(false);
    expect(existsSync(`/proc/${readFileSync(pidFile, 'utf8').trim()}`)).toBe(false);
  });
});

describe('a list of CPUs', () => {
  it('has single ones and ranges', () => {
    expect(parseCpuList('--pin', '0,2-4')).toEqual([0, 2, 3, 4]);
    for (const bad of ['', 'a', '3-1', '1,', '-1'])
      expect(() => parseCpuList('--pin', bad)).toThrow(/--pin: CPUs/);
  });
});
