import { createHash } from 'node:crypto';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createProgress } from '../../src/core/progress.ts';
import { PAYLOAD_DISK_BYTES } from '../../src/lab/artifacts.ts';
import type { Artifacts, BuiltPayload } from '../../src/lab/artifacts.ts';
import { MAX_IMAGE_BYTES } from '../../src/lab/images.ts';
import { elfSection, neededLibraries } from '../../src/lab/images-elf.ts';
import { cacheRoot, prepareArtifacts } from '../../src/lab/prepare.ts';
import { TEST_KERNEL } from '../support/lab.ts';

const PATH = process.env['PATH'];
afterEach(() => {
  process.env['PATH'] = PATH;
});

/** Newest entry of the build cache whose name begins so. */
async function newestBuild(name: string): Promise<string> {
  const dir = path.join(cacheRoot(), 'builds');
  // `bpf` is not `bpf-fuzz`
  const all = (await readdir(dir)).filter((e) =>
    /^-[0-9a-f]{16}$/.test(e.startsWith(name) ? e.slice(name.length) : ''),
  );
  const aged = await Promise.all(all.map(async (e) => ({ e, at: (await stat(path.join(dir, e))).mtimeMs })));
  return path.join(dir, aged.sort((a, b) => b.at - a.at)[0]!.e);
}

describe.each(['6.1', '6.12'])('everything for Linux %s', (kernel) => {
  let artifacts: Artifacts;
  let payload: BuiltPayload;
  beforeAll(async () => {
    artifacts = await prepareArtifacts({ kernel, progress: createProgress() });
    payload = await artifacts.buildPayload();
  });

  test('is of the series asked for, with every version recorded', () => {
    expect(artifacts.kernelVersion).toMatch(
      new RegExp(`^${kernel.replace('.', '\\.')}\\.\\d.*-cloud-amd64$`),
    );
    expect(artifacts.versions).toHaveProperty('qemu-system-x86');
    expect(artifacts.versions).toHaveProperty(`linux-image-${artifacts.kernelVersion}`);
  });

  test('is used again as it is, with no apt to be found', async () => {
    process.env['PATH'] = '/nowhere';
    const again = await prepareArtifacts({ kernel });
    expect(again.key).toBe(artifacts.key);
    expect(await again.buildPayload()).toEqual(payload);
  });

  test('keeps its images small', async () => {
    for (const image of [artifacts.baseImage, artifacts.bootInitramfs, artifacts.vmlinux])
      expect((await stat(image)).size).toBeLessThan(MAX_IMAGE_BYTES);
    expect((await stat(artifacts.bootInitramfs)).size).toBeLessThan(4 << 20);
    expect(payload.bytes).toBeLessThan(PAYLOAD_DISK_BYTES);
  });

  test.each(['host', 'guest'])('has the %s module made for exactly this kernel', async (side) => {
    const dir = await newestBuild(`module-${side}-${artifacts.kernelVersion}`);
    const info = elfSection(await readFile(path.join(dir, `hyperturtle_${side}.ko`)), '.modinfo');
    expect(info?.toString('latin1')).toContain(`vermagic=${artifacts.kernelVersion} `);
  });

  test('has programs of eBPF with types, and static ones for L2', async () => {
    const npf = await readFile(path.join(await newestBuild('bpf'), 'npf.bpf.o'));
    expect(npf.readUInt16LE(18)).toBe(247); // EM_BPF
    expect(elfSection(npf, '.BTF')?.length).toBeGreaterThan(0);
    const l2 = await newestBuild('l2-programs');
    for (const p of await readdir(l2)) expect(neededLibraries(await readFile(path.join(l2, p)))).toEqual([]);
  });
});

test('the image of a nested guest is the same byte for byte when it is built again', async () => {
  const artifacts = await prepareArtifacts({ kernel: TEST_KERNEL });
  const hash = async (file: string): Promise<string> =>
    createHash('sha256')
      .update(await readFile(file))
      .digest('hex');
  const first = await artifacts.buildImage('nginx');
  const before = await hash(first.path);
  await rm(first.path);
  const second = await artifacts.buildImage('nginx');
  expect([second.key, await hash(second.path)]).toEqual([first.key, before]);
});
