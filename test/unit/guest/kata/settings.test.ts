import { describe, expect, it } from 'vitest';
import { isForUs, settingsOf } from '../../../../src/guest/kata/settings.ts';
import type { KataSettings } from '../../../../src/guest/kata/settings.ts';
import { dropInText, dropInValues, launcherText } from '../../../../src/guest/kata/texts.ts';
import { isAtLeast, noNicPlug, shimVersion, versionIn } from '../../../../src/guest/kata/version.ts';
import { CONFIGURATIONS } from '../../../support/kata-root.ts';

type Shape = keyof typeof CONFIGURATIONS;
const read = (shape: Shape, ...dropIns: string[]) =>
  settingsOf(
    { file: '/c.toml', text: CONFIGURATIONS[shape] },
    dropIns.map((text, i) => ({ file: `/config.d/${i}.toml`, text })),
  );
function forUs(shape: Shape, ...dropIns: string[]): KataSettings {
  const s = read(shape, ...dropIns);
  if (!isForUs(s)) throw new Error(s.why);
  return s;
}

describe('a configuration of Kata', () => {
  it.each([
    ['go 3.2 qemu', 'qemu', 'qemu', 'go', '/usr/bin/qemu-system-x86_64'],
    ['go 3.31 clh', 'clh', 'clh', 'go', '/opt/kata/bin/cloud-hypervisor'],
    ['go 4.1 fc', 'fc', 'firecracker', 'go', '/opt/kata/bin/firecracker'],
    ['rs 3.8 clh', 'clh', 'cloud-hypervisor', 'rs', '/opt/kata/bin/cloud-hypervisor'],
    ['rs 4.1 qemu', 'qemu', 'qemu', 'rs', '/opt/kata/bin/qemu-system-x86_64'],
  ] as const)('%s is read', (shape, hypervisor, table, flavor, path) => {
    expect(forUs(shape)).toMatchObject({ hypervisor, table, flavor, path, validPaths: [path] });
  });

  it.each([
    ['go 4.1 snp', 'confidential'],
    ['rs 4.1 dragonball', "hypervisor 'dragonball'"],
  ] as const)('%s is not for us', (shape, why) => {
    expect(read(shape)).toEqual({ why: expect.stringContaining(why) as string });
  });

  it('is one with its drop-ins: the last word counts, lists are replaced, other keys stay', () => {
    const s = forUs(
      'go 3.31 qemu',
      '[hypervisor.qemu]\npath = "/a"\nvalid_hypervisor_paths = ["/a"]\n',
      'hypervisor.qemu.path = "/b"\n[runtime]\nenable_debug = true\n',
    );
    expect(s).toMatchObject({ path: '/b', validPaths: ['/a'], hotPlug: 'no-port' });
    // Kata would add the section, and take any of the two
    expect(read('go 3.31 clh', '[hypervisor.qemu]\npath = "/a"\n')).toEqual({
      why: expect.stringContaining('clh, qemu') as string,
    });
  });

  it('that is no TOML is an error with its line', () => {
    expect(() => settingsOf({ file: '/c.toml', text: '[runtime]\npath = \n' }, [])).toThrow(
      /^\/c\.toml:2:\d+: /,
    );
  });
});

describe('the drop-in', () => {
  it('has only keys that every Kata from 3.2 knows, as its Go reader refuses all others', () => {
    for (const shape of ['go 3.2 qemu', 'go 3.31 qemu', 'go 3.31 clh', 'rs 4.1 qemu'] as const)
      expect(Object.keys(dropInValues(forUs(shape), undefined))).toEqual(['path', 'valid_hypervisor_paths']);
  });
  it('leads to the launcher when it is read after all others, and allows what was allowed', () => {
    const own = dropInText(forUs('go 3.31 clh'), undefined, 'Kata 3.31.0 (Go)');
    const launcher = '/usr/lib/hyperturtle/vmm/opt/kata/bin/cloud-hypervisor';
    expect(forUs('go 3.31 clh', own)).toMatchObject({
      path: launcher,
      validPaths: [launcher, '/opt/kata/bin/cloud-hypervisor'],
    });
  });
  it("names runtime-rs's own section", () => {
    expect(dropInText(forUs('rs 3.8 clh'), undefined, 'Kata')).toContain('[hypervisor.cloud-hypervisor]');
  });
  it('has the jailer started, where there is one, which copies the file that `path` names', () => {
    expect(dropInValues(forUs('go 4.1 fc'), undefined)).toEqual({
      jailer_path: '/usr/lib/hyperturtle/vmm/opt/kata/bin/jailer',
      valid_jailer_paths: ['/usr/lib/hyperturtle/vmm/opt/kata/bin/jailer', '/opt/kata/bin/jailer'],
    });
    expect(
      dropInValues(forUs('go 4.1 fc', 'hypervisor.firecracker.jailer_path = ""'), undefined),
    ).toMatchObject({
      path: '/usr/lib/hyperturtle/vmm/opt/kata/bin/firecracker',
    });
  });
  it('adds root ports for NICs, no fewer than there are', () => {
    expect(dropInValues(forUs('go 3.31 qemu'), 'hot')).toMatchObject({
      hot_plug_vfio: 'root-port',
      pcie_root_port: 2,
    });
    const four = forUs('go 3.31 qemu', 'hypervisor.qemu.pcie_root_port = 4');
    expect(dropInValues(four, 'cold')).toMatchObject({ cold_plug_vfio: 'root-port', pcie_root_port: 4 });
  });
});

describe('versions', () => {
  it('are what the shims say', () => {
    const line = (language: string, version: string): string =>
      `Kata Containers containerd shim (${language}): id: "io.containerd.kata.v2", version: ${version}, commit: abc\n`;
    expect(shimVersion(line('Golang', '3.2.0'))).toEqual({
      flavor: 'go',
      version: { text: '3.2.0', major: 3, minor: 2 },
    });
    expect(shimVersion(line('Rust', '4.1.0-rc0'))).toMatchObject({
      flavor: 'rs',
      version: { text: '4.1.0-rc0' },
    });
    expect(shimVersion('containerd-shim-runc-v2: 1.6.20')).toBeUndefined();
  });
  it('decide which NICs can be plugged how', () => {
    const why = (
      plug: 'hot' | 'cold',
      hypervisor: 'qemu' | 'clh' | 'fc',
      flavor: 'go' | 'rs',
      version: string,
    ): string | undefined => noNicPlug(plug, hypervisor, flavor, versionIn(version)!);
    expect(why('hot', 'qemu', 'go', '3.2.0')).toBeUndefined();
    expect(why('cold', 'clh', 'go', '3.28.0')).toContain('from 3.29 on');
    expect(why('cold', 'clh', 'go', '3.29.0')).toBeUndefined();
    expect(why('hot', 'qemu', 'rs', '4.1.0')).toContain('no hot_plug_vfio');
    expect(why('cold', 'qemu', 'rs', '3.30.0')).toContain('from 3.31 on');
    expect(why('cold', 'fc', 'go', '4.1.0')).toContain('no VFIO');
    expect(isAtLeast(versionIn('4.0.0')!, 3, 31)).toBe(true);
  });
});

it('a launcher quotes what it names', () => {
  const text = launcherText({ hypervisor: 'clh', real: "/a'b c", command: ['/n', '/s'], strict: true });
  expect(text).toContain("real='/a'\\''b c'\n");
  expect(text).not.toContain('--or-plain');
});
