/**
 * The npf program in a real L0 kernel, on arenas of our own and without a guest: what it answers, and what it does
 * to the pool and the page index. Broken and hostile layouts as well: an arena belongs to a tenant.
 */
import { gunzipSync, gzipSync } from 'node:zlib';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  HT_CPU_LARGE,
  HT_WORD_AHEAD,
  HT_WORD_CLOSED,
  HT_WORD_EMPTY,
  HT_WORD_PRESENT,
  HT_WORD_SMALL,
} from '../../src/kernel/arena.ts';
import { HT_NPF_MAP_EXACT, HT_NPF_MAP_FILL, HT_NPF_MAP_LARGE } from '../../src/kernel/npf.ts';
import { runScript } from '../../src/lab/levels.ts';
import {
  ARENA_BYTES,
  ArenaImage,
  FIRST_GFN,
  INDEX_OFF,
  PAGES,
  SLOT,
  largeFrame,
  poolFrame,
  secondFrame,
  secondLargeFrame,
} from '../support/arena.ts';
import type { ArenaSpec } from '../support/arena.ts';
import { useLab } from '../support/lab.ts';

const TEMPLATE = '0x8000000000000e67';
/** What L1 publishes begins at 1 MiB at the lowest (HTG_LOW_GFN of the module). */
const LOW_GFN = 256;

interface Fault {
  page?: number;
  gpa?: string;
  write?: boolean;
  vcpu?: number;
  sibling?: string;
  sibling_gfn?: number;
  level?: number;
  entry?: string;
  root?: string;
}
type Answer = Record<string, string | number>;
interface Outcome {
  answers: Answer[];
  after: ArenaImage;
}

const cases: { spec: ArenaSpec; faults: Fault[] }[] = [];
let outcomes: Outcome[] = [];

/** Runs the program once for each fault, in order, on one arena. All cases run together, before the tests. */
function given(spec: ArenaSpec, faults: Fault[]): () => Outcome {
  const i = cases.push({ spec, faults }) - 1;
  return () => outcomes[i]!;
}

const contextOf = ({ page = 0, write = true, ...rest }: Fault): Record<string, unknown> => ({
  gpa: `0x${((FIRST_GFN + page) * 4096 + 0x123).toString(16)}`,
  error_code: write ? 2 : 0,
  root_level: 4,
  ...rest,
});

const lab = useLab();
beforeAll(async () => {
  const { l0 } = lab();
  await runScript(l0, 'insmod /payload/modules/hyperturtle_host.ko');
  const arenas = Buffer.concat(cases.map((c) => ArenaImage.build(c.spec).bytes));
  await l0.writeFile('/run/in.gz', gzipSync(arenas));
  await l0.writeFile('/run/cases', JSON.stringify(cases.map((c) => c.faults.map(contextOf))));
  const out = await runScript(
    l0,
    `gunzip /run/in.gz &&
    hyperturtle host run --arena-mib 1 --program /payload/bpf/npf.bpf.o \
      --contexts /run/cases --arena-from /run/in --arena-to /run/out && gzip /run/out`,
    { timeoutMs: 300_000 },
  );
  const after = gunzipSync(await l0.readFile('/run/out.gz'));
  const { results } = JSON.parse(out) as { results: Answer[][] };
  outcomes = results.map((answers, i) => {
    for (const a of answers) delete a['nsPerRun'];
    return { answers, after: new ArenaImage(after.subarray(i * ARENA_BYTES, (i + 1) * ARENA_BYTES)) };
  });
});
const mapped = (page: number, count: number): Answer => ({
  action: 'MAP',
  template: TEMPLATE,
  words_off: `0x${(INDEX_OFF + 8 * page).toString(16)}`,
  first_gfn: `0x${(FIRST_GFN + page).toString(16)}`,
  count,
  flags: HT_NPF_MAP_FILL,
});
const pass = (reason: string): Answer => ({ action: 'PASS', reason });

/** A test of one case. */
function when(
  name: string,
  spec: ArenaSpec,
  faults: Fault[],
  verify: (answers: Answer[], after: ArenaImage) => void,
): void {
  const outcome = given(spec, faults);
  it(name, () => verify(outcome().answers, outcome().after));
}

describe('a fault on a page without a frame', () => {
  when('gets one from the pool, and the word says so', {}, [{ page: 5 }], (answers, after) => {
    expect(answers).toEqual([mapped(5, 1)]);
    expect(after.word(5)).toBe(poolFrame(0) | HT_WORD_PRESENT);
    expect(after.header.pool_head).toBe(1);
    expect(after.l2).toMatchObject({ faults: 1, mapped_new: 1, mapped_ahead: 0, frames_taken: 1 });
  });

  // each fault is where one who touches page after page would stop next
  const run = [0, 1, 2, 4, 8, 16, 32, 64, 128, 192].map((page) => ({ page }));
  when('that continues a run gets ever larger aligned groups, up to the limit', {}, run, (answers, after) => {
    const sizes = answers.map((a) => Number(a['count']));
    expect(sizes[0]).toBe(1);
    expect(Math.max(...sizes)).toBe(64);
    expect(sizes).toEqual([...sizes].sort((a, b) => a - b));
    for (const a of answers) expect(Number(a['first_gfn']) % Number(a['count'])).toBe(0);
    expect(after.l2.frames_taken).toBe(after.framesInIndex().length);
    expect(after.l2.mapped_new + after.l2.mapped_ahead).toBe(after.l2.frames_taken);
  });

  const low = run.map(({ page }) => ({ page: LOW_GFN - FIRST_GFN + page }));
  when(
    'does so from 1 MiB on, where the lowest slot begins, and never below it',
    { l2: { slots: [{ ...SLOT, gfn: LOW_GFN }] } },
    [...low, { page: LOW_GFN - 1 - FIRST_GFN }],
    (answers, after) => {
      const given = answers.slice(0, -1).map((a) => [Number(a['first_gfn']), Number(a['count'])] as const);
      expect(Math.max(...given.map(([, count]) => count))).toBe(64);
      for (const [i, [first, count]] of given.entries()) {
        expect(first).toBeGreaterThanOrEqual(LOW_GFN);
        expect(first % count).toBe(0);
        expect(answers[i]?.['words_off']).toBe(`0x${(INDEX_OFF + 8 * (first - LOW_GFN)).toString(16)}`);
      }
      expect(after.word(0)).toBe(poolFrame(0) | HT_WORD_PRESENT);
      expect(answers.at(-1)).toEqual(pass('NO_SLOT'));
    },
  );

  const apart = [0, 1, 9000, 300, 7000].map((page) => ({ page }));
  when('far from others gets one page, also beside runs', {}, apart, (answers) => {
    expect(answers.slice(2).map((a) => a['count'])).toEqual([1, 1, 1]);
  });

  when('that is a read maps no neighbours ahead', {}, [{ page: 0 }, { page: 1, write: false }], (answers) =>
    expect(answers[1]).toMatchObject({ action: 'MAP', count: 1 }),
  );

  when(
    'goes to L1 when the pool is empty',
    { frames: 1 },
    [{ page: 0 }, { page: 1 }, { page: 0 }],
    (answers, after) => {
      expect(answers.slice(0, 2)).toEqual([mapped(0, 1), pass('POOL_EMPTY')]);
      expect(answers[2]).toMatchObject({ action: 'MAP' });
      expect(after.framesInIndex()).toEqual([poolFrame(0)]);
      expect(after.l2.passes).toBe(1);
    },
  );

  when(
    'goes to L1 when the guest has had all it may have',
    { l2: { frames_limit: 2 } },
    [{ page: 0 }, { page: 100 }, { page: 200 }],
    (answers, after) => {
      expect(answers[2]).toEqual(pass('LIMIT'));
      expect(after.l2.frames_taken).toBe(2);
    },
  );

  when(
    'maps no neighbours ahead when the pool is low',
    { frames: 70, header: { pool_low: 69 } },
    [{ page: 0 }, { page: 1 }, { page: 2 }],
    (answers) => expect(answers.map((a) => a['count'])).toEqual([1, 1, 1]),
  );
});

describe('a fault in a slot whose frames are of another NUMA node', () => {
  when(
    "takes frames of that node's pool, and not the other one's that this CPU has in hand",
    { second: { frames: 100, large: 0 }, spare: poolFrame(900) | HT_WORD_PRESENT },
    [{ page: 0 }, { page: 1 }],
    (answers, after) => {
      expect(answers.map((a) => a['action'])).toEqual(['MAP', 'MAP']);
      expect(after.framesInIndex()).toEqual([secondFrame(0), secondFrame(1)]);
      expect(after.header.pool_head).toBe(0);
      expect(after.cpu0.spare).toBe(poolFrame(900) | HT_WORD_PRESENT);
    },
  );

  when(
    'goes to L1 when its pool is empty, however many the other one has',
    { second: { frames: 1, large: 0 } },
    [{ page: 0 }, { page: 100 }],
    (answers, after) => {
      expect(answers[1]).toEqual(pass('POOL_EMPTY'));
      expect(after.framesInIndex()).toEqual([secondFrame(0)]);
      expect(after.l2.frames_taken).toBe(1);
    },
  );

  when(
    'maps what is there whatever its pool has',
    { second: { frames: 0, large: 0 }, words: { 5: poolFrame(901) | HT_WORD_PRESENT } },
    [{ page: 5 }],
    (answers) => expect(answers[0]).toMatchObject({ action: 'MAP' }),
  );

  when(
    'gets 2 MiB of that node',
    { largeFrames: 4, runsOnCpu0: 1 + HT_CPU_LARGE, second: { frames: 0, large: 1 } },
    [
      { page: 0, level: 2 },
      { page: 512, level: 2 },
    ],
    (answers, after) => {
      expect(answers[0]).toMatchObject({ action: 'MAP', count: 512 });
      expect(answers[1]).toEqual(pass('POOL_EMPTY'));
      expect(after.granule(0)).toBe(secondLargeFrame(0) | HT_WORD_PRESENT);
      expect(after.header.large_head).toBe(0);
    },
  );
});

describe('a fault on a page that has a frame', () => {
  when(
    'maps what is there around it and takes nothing',
    { words: { 64: poolFrame(900) | HT_WORD_PRESENT, 66: poolFrame(901) | HT_WORD_PRESENT } },
    [{ page: 66 }],
    (answers, after) => {
      expect(answers).toEqual([mapped(64, 64)]);
      expect(after.header.pool_head).toBe(0);
      expect(after.framesInIndex()).toEqual([poolFrame(900), poolFrame(901)]);
      expect(after.l2).toMatchObject({ mapped_existing: 1, mapped_new: 0, frames_taken: 0 });
    },
  );

  when(
    'among neighbours without: their words are filled, and it keeps its own',
    { words: { 2: poolFrame(900) | HT_WORD_PRESENT, 3: HT_WORD_CLOSED } },
    [{ page: 0 }, { page: 1 }, { page: 4 }, { page: 8 }],
    (_, after) => {
      expect(after.word(2)).toBe(poolFrame(900) | HT_WORD_PRESENT);
      expect(after.word(3)).toBe(HT_WORD_CLOSED);
    },
  );
});

describe('pages given ahead', () => {
  // a run up to a group of 64 pages, 64 to 127
  const run = [0, 1, 2, 4, 8, 16, 32, 64].map((page) => ({ page }));
  const used = { entry: '0x8000000000000e67' };
  const unused = (after: ArenaImage): number[] =>
    Array.from({ length: 128 }, (_, page) => page).filter(
      (page) => (after.word(page) & HT_WORD_AHEAD) !== 0n,
    );
  const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

  when(
    'are not marked where L0 shall fill in the whole group: no use of them is seen',
    {},
    run,
    (answers, after) => {
      expect(answers.at(-1)).toEqual(mapped(64, 64));
      expect(unused(after)).toEqual([]);
      for (const page of range(64, 128)) expect(after.word(page) & HT_WORD_PRESENT).toBe(HT_WORD_PRESENT);
    },
  );

  when(
    'are each seen to be used when it is to be exact',
    { header: { exact: 1 } },
    [...run, { page: 83, ...used }],
    (answers, after) => {
      expect(answers.at(-2)).toMatchObject({ action: 'MAP', flags: HT_NPF_MAP_EXACT });
      expect(answers.at(-1)).toEqual(pass('NONE'));
      expect(after.l2).toMatchObject({ faults: run.length, passes: 0 });
      expect(after.header.pool_head).toBe(after.framesInIndex().length);
      expect(unused(after).filter((page) => page >= 64)).toEqual([...range(65, 83), ...range(84, 128)]);
    },
  );

  when(
    'that L1 has closed or taken away stay so when a use is told',
    { words: { 64: HT_WORD_CLOSED } },
    [{ page: 65, ...used }],
    (_, after) => expect([after.word(64), after.word(65)]).toEqual([HT_WORD_CLOSED, 0n]),
  );
});

describe('a fault where there is no last-level table', () => {
  const ON = 1 + HT_CPU_LARGE;
  const on = (spec: ArenaSpec = {}): ArenaSpec => ({ largeFrames: 4, runsOnCpu0: ON, ...spec });
  const at = (page: number): Fault => ({ page, level: 2 });
  const large = (page: number): Answer => ({ ...mapped(page, 512), flags: HT_NPF_MAP_LARGE });
  const isLarge = (after: ArenaImage, granule: number, frame: bigint): void => {
    expect(after.granule(granule)).toBe(frame | HT_WORD_PRESENT);
    for (let i = 0; i < 512; i++)
      expect(after.word(granule * 512 + i)).toBe((frame + BigInt(i * 4096)) | HT_WORD_PRESENT);
  };

  when('gets 2 MiB at once, and every word says so', on(), [at(515)], (answers, after) => {
    expect(answers).toEqual([large(512)]);
    isLarge(after, 1, largeFrame(0));
    expect(after.header).toMatchObject({ large_head: 1, pool_head: 0 });
    expect(after.l2).toMatchObject({ faults: 1, mapped_new: 1, large_new: 1, frames_taken: 512 });
    expect(after.framesInIndex().length).toBe(512);
  });

  when(
    'gets the same 2 MiB again, also when who claimed them has not written all words',
    on({
      granules: { 2: largeFrame(9) | HT_WORD_PRESENT },
      words: { 1024: largeFrame(9) | HT_WORD_PRESENT },
    }),
    [at(1030), at(1500)],
    (answers, after) => {
      expect(answers).toEqual([large(1024), large(1024)]);
      isLarge(after, 2, largeFrame(9));
      expect(after.header.large_head).toBe(0);
      expect(after.l2).toMatchObject({ mapped_existing: 2, large_existing: 2, frames_taken: 0 });
    },
  );

  when(
    'of pages that were given one by one goes to L1, which makes the table',
    on({ granules: { 0: HT_WORD_SMALL }, words: { 7: poolFrame(3) | HT_WORD_PRESENT } }),
    [at(7), at(8)],
    (answers, after) => {
      expect(answers).toEqual([pass('SMALL'), pass('SMALL')]);
      expect(after.framesInIndex()).toEqual([poolFrame(3)]);
    },
  );

  when(
    'goes to L1 when the pool has no 2 MiB left',
    on(),
    [0, 512, 1024, 1536, 2048].map(at),
    (answers, after) => {
      expect(answers.at(-2)).toEqual(large(1536));
      expect(answers.at(-1)).toEqual(pass('POOL_EMPTY'));
      expect(after.granule(4)).toBe(HT_WORD_EMPTY);
      expect(new Set(after.framesInIndex()).size).toBe(2048);
    },
  );

  const rows: [string, ArenaSpec, Fault, string][] = [
    ['has none', { largeFrames: undefined as never }, at(0), 'SMALL'],
    ['may have no large entries for this vCPU', on({ runsOnCpu0: 1 }), at(0), 'SMALL'],
    ['is to see the first use of each page', on({ header: { exact: 1 } }), at(0), 'SMALL'],
    ['has learned no flags', on({ l2: { template: 0n } }), at(0), 'NO_TEMPLATE'],
    ['is taking pages away', on({ granules: { 0: HT_WORD_CLOSED } }), at(0), 'CLOSED'],
    ['lets the guest have no more', on({ l2: { frames_limit: 511 } }), at(0), 'LIMIT'],
    ['has a KVM that wants none in the slot', on({ l2: { slots: [{ ...SLOT, small: 1 }] } }), at(0), 'SMALL'],
    ['has a slot that ends within', on({ l2: { slots: [{ ...SLOT, npages: 1023 }] } }), at(512), 'SMALL'],
    [
      'has a slot that begins within',
      on({ l2: { slots: [{ ...SLOT, gfn: FIRST_GFN + 1 }] } }),
      at(1),
      'SMALL',
    ],
    [
      'has a file that lies otherwise than guest memory',
      on({ l2: { slots: [{ ...SLOT, word_off: INDEX_OFF + 8 }] } }),
      at(0),
      'SMALL',
    ],
  ];
  for (const [name, spec, fault, reason] of rows)
    when(`goes to L1 when that ${name}`, spec, [fault], (answers, after) => {
      expect(answers).toEqual([pass(reason)]);
      expect(after.framesInIndex()).toEqual([]);
      expect(after.header.large_head).toBe(0);
    });

  when(
    'and one where there is a table leave no frame in two places, whichever is first',
    on(),
    [
      at(0),
      { page: 3 },
      { page: 600 },
      at(700),
      { page: 1024, write: false },
      at(1025),
      at(1600),
      { page: 1600 },
    ],
    (answers, after) => {
      expect(answers.map((a) => a['count'] ?? a['reason'])).toEqual([
        512,
        64,
        1,
        'SMALL',
        1,
        'SMALL',
        512,
        64,
      ]);
      isLarge(after, 0, largeFrame(0));
      isLarge(after, 3, largeFrame(1));
      expect([after.granule(1), after.granule(2)]).toEqual([HT_WORD_SMALL, HT_WORD_SMALL]);
      expect(after.l2.frames_taken).toBe(after.framesInIndex().length);
      expect(new Set(after.framesInIndex()).size).toBe(1026);
    },
  );

  when(
    'on a page of its own: not while L1 takes pages of the granule away, nor before those of 2 MiB are written',
    on({
      granules: { 0: HT_WORD_CLOSED, 1: largeFrame(8) | HT_WORD_PRESENT },
      words: { 5: poolFrame(5) | HT_WORD_PRESENT },
    }),
    [{ page: 4 }, { page: 5 }, { page: 512 }],
    (answers, after) => {
      expect(answers).toEqual([pass('CLOSED'), pass('CLOSED'), pass('RACE')]);
      expect(after.framesInIndex()).toEqual([poolFrame(5)]);
    },
  );

  when(
    'of a file that lies otherwise: a group of two granules is one page',
    on({ l2: { slots: [{ ...SLOT, word_off: INDEX_OFF + 8 * 32 }] }, granules: { 0: HT_WORD_SMALL } }),
    [470, 471, 472, 474, 480].map((page) => ({ page: page })),
    (answers, after) => {
      for (const a of answers) expect(Number(a['count'])).toBeLessThanOrEqual(32);
      expect(answers.at(-1)).toMatchObject({ action: 'MAP' });
      expect(after.granule(1)).toBe(HT_WORD_SMALL);
    },
  );
});

/** The same numbers every time. */
function* randoms(seed: number): Generator<number, never> {
  for (let x = seed; ; ) {
    x = (Math.imul(x, 1103515245) + 12345) & 0x7fffffff;
    yield x >> 8;
  }
}

describe('frames', () => {
  const random = randoms(12345);
  // runs, and jumps between them
  const list = Array.from({ length: 300 }, (_, i) => ({
    page: ((random.next().value % 16) * 512 + ((i * 3) % 512)) % PAGES,
    write: random.next().value % 5 !== 0,
  }));
  when('are never given twice and never lost, whatever the order of faults', {}, list, (answers, after) => {
    const index = after.framesInIndex();
    const spare = after.cpu0.spare === 0n ? [] : [after.cpu0.spare & ~0xfffn];
    const all = [...index, ...spare, ...after.framesInPool()];
    expect(new Set(all).size).toBe(all.length);
    expect(new Set(all)).toEqual(new Set(Array.from({ length: 512 }, (_, i) => poolFrame(i))));
    expect(after.l2.frames_taken).toBe(index.length);
    const maps = answers.filter((a) => a['action'] === 'MAP').length;
    expect(maps).toBeGreaterThan(100);
    expect(after.l2.mapped_new + after.l2.mapped_existing).toBe(maps);
    expect(after.l2.passes).toBe(answers.length - maps);
  });
});

describe('the template', () => {
  const without = (word: bigint): ArenaSpec => ({ l2: { template: 0n }, words: { 7: word } });
  const shown = (sibling: bigint): Fault[] => [
    { page: 5, sibling: `0x${sibling.toString(16)}`, sibling_gfn: FIRST_GFN + 7 },
  ];
  const word = poolFrame(3) | HT_WORD_PRESENT;

  when('is asked for when there is none', without(word), [{ page: 5 }], (answers, after) => {
    expect(answers).toEqual([{ action: 'LEARN' }]);
    expect(after.header.pool_head).toBe(0);
  });

  when(
    'is learned from a leaf of known RAM',
    without(word),
    shown(poolFrame(3) | 0xe67n),
    (answers, after) => {
      expect(answers).toMatchObject([{ action: 'MAP', template: '0xe67' }]);
      expect(after.l2.template).toBe(0xe67n);
    },
  );

  when(
    'is not learned from a leaf of another page',
    without(word),
    shown(poolFrame(4) | 0xe67n),
    (_, after) => expect(after.l2.template).toBe(0n),
  );

  when('is not learned from a leaf of nothing we know', without(0n), shown(0xe67n), (_, after) =>
    expect(after.l2.template).toBe(0n),
  );
});

describe('the program passes', () => {
  const rows: [string, ArenaSpec, Fault, string][] = [
    ['when L1 has switched it off', { header: { enabled: 0 } }, {}, 'DISABLED'],
    ['when there is no layout', { header: { magic: 0n } }, {}, 'DISABLED'],
    ['for a layout of another version', { header: { version: 99 } }, {}, 'DISABLED'],
    ['for a layout with smaller CPU records', { header: { version: 1 } }, {}, 'DISABLED'],
    ['when no L2 runs on the vCPU', { runsOnCpu0: 0 }, {}, 'NO_L2'],
    ['for a vCPU beyond the table', {}, { vcpu: 8 }, 'NO_L2'],
    ['for an L2 beyond the table', { runsOnCpu0: 200 }, {}, 'NO_L2'],
    [
      "when another hypervisor runs a guest there: its root is not that of KVM's last entry",
      { root: 0x12345000n },
      { root: '0x54321000' },
      'OTHER_ROOT',
    ],
    ['while the L2 is off', { l2: { state: 0 } }, {}, 'L2_OFF'],
    ['beyond the slot', {}, { page: PAGES }, 'NO_SLOT'],
    ['before the slot', {}, { gpa: '0x200000' }, 'NO_SLOT'],
    ['on a page that nobody may fill', { words: { 5: HT_WORD_CLOSED } }, { page: 5 }, 'CLOSED'],
  ];
  for (const [name, spec, fault, reason] of rows)
    when(name, spec, [fault], (answers, after) => {
      expect(answers).toEqual([pass(reason)]);
      expect(after.header.pool_head).toBe(0);
      expect(after.framesInIndex().length).toBe(Object.keys(spec.words ?? {}).length);
    });
});

// offsets in its answers are the module's to check: it refuses those beyond the arena or not aligned
describe('on a hostile layout it still answers, with groups of at most 64 pages, and harms nothing:', () => {
  const huge = Number.MAX_SAFE_INTEGER;
  const specs: ArenaSpec[] = [
    { header: { cpus_count: huge, l2_count: huge, pool_entries: huge, pool_head: 1, pool_tail: huge } },
    { header: { pool_entries: 0 } },
    { header: { group_max: huge } },
    { l2: { slot_count: huge, group_max: huge } },
    { runsOnCpu0: huge },
  ];
  for (const at of [ARENA_BYTES - 4, ARENA_BYTES, huge]) {
    specs.push({ header: { cpus_off: at } }, { header: { l2_off: at } }, { header: { pool_off: at } });
    specs.push({ l2: { slots: [{ gfn: FIRST_GFN, npages: huge, word_off: at, small: 0 }] } });
  }
  for (const stride of [4, ARENA_BYTES - 256, ARENA_BYTES, 2 ** 52, huge])
    for (const field of ['pool_stride', 'spare_stride'])
      specs.push({ second: { frames: 9, large: 0 }, header: { [field]: stride } });
  const random = randoms(99);
  const some = (): number => [1, 7, 8, 4095, ARENA_BYTES - 8, 2 ** 40, huge][random.next().value % 7]!;
  const fields = [
    ...['cpus_off', 'cpus_count', 'l2_off', 'l2_count', 'pool_off', 'pool_entries', 'group_max'],
    ...['pool_stride', 'spare_stride'],
  ];
  for (let i = 0; i < 20; i++) {
    const header = Object.fromEntries(
      fields.filter(() => random.next().value % 3 === 0).map((f) => [f, some()]),
    );
    const slots = [
      { gfn: FIRST_GFN - (random.next().value % 2), npages: some(), word_off: some(), small: 0 },
    ];
    specs.push({ header: { ...header, pool_tail: some() }, l2: { slots } });
  }
  specs.forEach((spec, i) =>
    when(`layout ${i + 1}`, spec, [{ page: 0 }, { page: 1 }, { page: 70 }], (answers) => {
      expect(answers.length).toBe(3);
      for (const a of answers) {
        expect(['PASS', 'LEARN', 'MAP']).toContain(a['action']);
        if (a['action'] === 'MAP') expect(a['count']).toBeLessThanOrEqual(64);
      }
    }),
  );
});

describe('the network programs', () => {
  it("pass this kernel's verifier and answer as they do natively, the firewall with 100 rules", async () => {
    const out = await runScript(
      lab().l0,
      'hyperturtle bench net-native --folder /payload/bpf --rounds 1 --repeat 100 --frames 0',
    );
    for (const program of ['pass', 'packet-counter', 'firewall', 'rate-limiter', 'tcptop'])
      for (const hook of ['xdp', 'tc/ingress', 'tc/egress'])
        expect(out).toContain(`| ${program} | ${hook} | UDP, IPv6 | `);
  });
});
