/** Which shapes of maps the kernel takes, against what admission says of them. */
import { closeSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { libbpf } from '../../src/bpf/libbpf.ts';
import { BpfObject } from '../../src/bpf/object.ts';
import { BPF_MAP_INFO } from '../../src/kernel/bpf.ts';
import { infoOf } from '../../src/bpf/map.ts';
import { checkObject } from '../../src/host/admission/check.ts';
import { asLoaded, shapeProblem } from '../../src/host/admission/map-shape.ts';
import { BPF_MAP_CREATE_OPTS } from '../../src/kernel/bpf.ts';
import { whyNoMaps } from '../support/bpf.ts';

const why = whyNoMaps();
/** array, hash, percpu_array, percpu_hash, lru_hash, ringbuf */
const TYPES = [2, 1, 6, 5, 9, 27];
const RDONLY = 1 << 7;
const WRONLY = 1 << 8;

const SHAPES = TYPES.flatMap((type) =>
  [
    [4, 8, 1],
    [4, 8, 0],
    [0, 8, 1],
    [4, 0, 1],
    [0, 0, 4096],
    [0, 0, 0],
    [0, 0, 8192],
    [4, 0, 4096],
    [0, 4, 4096],
    [8, 8, 4],
    [4, 32_768, 1],
    [4, 32_769, 1],
    [4, (4 << 20) - 53, 1],
    [4, 4 << 20, 1],
    [600, 8, 4],
  ].flatMap(([keyBytes = 0, valueBytes = 0, maxEntries = 0]) =>
    [0, RDONLY, RDONLY | WRONLY].map((flags) => ({ type, keyBytes, valueBytes, maxEntries, flags })),
  ),
);

describe.skipIf(why !== undefined)(`shapes of maps${why === undefined ? '' : ` (skipped: ${why})`}`, () => {
  it('that check admits are those that the kernel takes', () => {
    const differ = SHAPES.filter((s) => s.type !== 27 || s.flags === 0).filter((s) => {
      const opts = BPF_MAP_CREATE_OPTS.encode({ sz: BPF_MAP_CREATE_OPTS.size, map_flags: s.flags });
      const fd = libbpf().map_create(s.type, 'shape', s.keyBytes, s.valueBytes, s.maxEntries, opts);
      if (fd >= 0) closeSync(fd);
      return fd >= 0 !== (shapeProblem(asLoaded(s)) === undefined);
    });
    expect(differ).toEqual([]);
  });

  it('of ring buffers are loaded as check says', () => {
    const elf = readFileSync(new URL('../support/cases/ringbuf.o', import.meta.url));
    const [checked] = checkObject(elf, { policy: { cpus: 1 } }).maps;
    const object = BpfObject.load({ name: 'rings', elf });
    try {
      const info = BPF_MAP_INFO.decode(infoOf('rb', object.mapFd('rb'), BPF_MAP_INFO.size));
      expect(checked?.maxEntries).toBe(info.max_entries);
    } finally {
      object.close();
    }
  });
});
