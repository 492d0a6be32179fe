/** Objects and links of one VM: what is granted, what is refused, and what is left when something fails. */
import { openSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { here } from '../../../../src/bpf/calls.ts';
import { OwnedFd, openFds } from '../../../../src/bpf/fds.ts';
import { HyperturtleError, isHyperturtleError } from '../../../../src/core/errors.ts';
import type { Verdict } from '../../../../src/host/admission/verdict.ts';
import type { VmSettings } from '../../../../src/host/vm/admit.ts';
import { quotasSchema, runNsOf } from '../../../../src/host/config.ts';
import { PacketLinks } from '../../../../src/host/packets/packet-links.ts';
import { callBudget } from '../../../../src/host/vm/budget.ts';
import { VmObjects } from '../../../../src/host/vm/objects.ts';
import type { LoadRequest, LoadedObject } from '../../../../src/host/loader/loader.ts';
import type { KvmHook } from '../../../../src/kernel/host.ts';
import { kindOf } from '../../../../src/wire/errors.ts';

const never = new AbortController().signal;
const fd = (what: string): OwnedFd => new OwnedFd(openSync('/dev/null', 'r'), what);
const b64 = (text: string): string => Buffer.from(text).toString('base64');

/** An "ELF" is a word for each thing in it: `p:NAME` a program for npf, `x:NAME` one for exit, `c:NAME` one for call, `m:NAME:ENTRIES` a map, `arena`, `slow`. */
const DEAREST = { program: 'x', instruction: 3, why: 'map_update_elem', times: 1, ns: 8000 };

function verdictOf(elf: Uint8Array): Verdict {
  const words = Buffer.from(elf).toString().split(' ');
  return {
    ok: !words.includes('evil'),
    refusals: words.includes('evil') ? [{ rule: 'helper', message: 'no', mend: 'do not' }] : [],
    constants: ['arena_bytes', 'step'],
    programs: words
      .filter((w) => Object.hasOwn(HOOK_OF, w.charAt(0)) && w.charAt(1) === ':')
      .map((w) => ({
        name: w.slice(2),
        section: 's',
        hook: HOOK_OF[w.charAt(0)] ?? 'npf',
        instructions: 10,
        run: { ns: 9000, nsPerInstruction: 0, dearest: DEAREST },
      })),
    maps: words
      .filter((w) => w.startsWith('m:') || w === 'arena')
      .map((w) => ({
        name: w.split(':')[1] ?? 'arena',
        type: 'hash',
        keyBytes: 4,
        valueBytes: 8,
        maxEntries: Number(w.split(':')[2] ?? 1),
        flags: 0,
        bytes: 100,
        arena: w === 'arena',
        variables: false,
      })),
  };
}

const HOOK_OF: Readonly<Record<string, KvmHook>> = { p: 'npf', x: 'exit', s: 'sample', c: 'call' };

interface World {
  objects: VmObjects;
  settings: VmSettings;
  /** What was asked of the loader and of the kernel. */
  requests: LoadRequest[];
  calls: string[];
  /** Makes the kernel refuse to link a program of this name. */
  unlinkable: Set<string>;
  verified: number;
  /** What its calls wait for. */
  kernel: Promise<void>;
  /** What the kernel says of the hook. */
  linked: boolean;
  loadError: Error | undefined;
}

let w: World;
let arena: OwnedFd;
beforeEach(() => {
  arena = fd('arena');
  w = {
    settings: {
      quotas: quotasSchema().parse({}),
      policy: { forbiddenHelpers: [] },
      signature: 'none',
      verify: () => '0123456789abcdef',
    },
    requests: [],
    calls: [],
    unlinkable: new Set(),
    verified: 100,
    kernel: Promise.resolve(),
    linked: true,
    loadError: undefined,
    objects: undefined as unknown as VmObjects,
  };
  w.objects = new VmObjects({
    vm: 'one',
    arena: { map: { file: arena } as never, bytes: 1 << 20 },
    loadTimeoutMs: 1000,
    settings: () => w.settings,
    check: (elf) => Promise.resolve(verdictOf(elf)),
    load: (request) => {
      w.requests.push(request);
      return w.loadError ? Promise.reject(w.loadError) : Promise.resolve(loaded(request));
    },
    hooks: {
      link: async (_hook, program, given, { replace, options }) => {
        await w.kernel;
        if (w.unlinkable.has(program.name))
          throw new HyperturtleError('HT_BPF', 'reaches beyond the context');
        w.calls.push(
          `${replace ? 'replace by' : 'link'} ${program.name}${given ? ' with arena' : ''}${options ? ` for ${JSON.stringify(options)}` : ''}`,
        );
      },
      unlink: async () => {
        await w.kernel;
        w.calls.push('unlink');
      },
      stats: () => ({ linked: w.linked }) as never,
      call: ({ programId, number, words }) => {
        w.calls.push(`call ${programId} ${number} ${words.join(' ')}`);
        return { answered: true, results: [BigInt.asUintN(64, -1n), ...words.slice(0, 3)] };
      },
      endedLinks: () => Promise.reject(new Error('not in this test')),
      close: () => Promise.resolve(),
    },
    packets: new PacketLinks({ call: here, nics: () => [] }),
  });
});
afterEach(async () => {
  await w.objects.clear();
  arena.close();
  expect(openFds(), 'descriptors that are left').toEqual([]);
});

function loaded(request: LoadRequest): LoadedObject {
  const verdict = verdictOf(request.elf);
  const files: OwnedFd[] = [];
  const file = (what: string): OwnedFd => {
    const f = fd(what);
    files.push(f);
    return f;
  };
  const close = (): void => files.forEach((f) => f.close());
  return {
    name: request.name,
    programs: verdict.programs.map((p) => ({
      name: p.name,
      section: p.section,
      hook: p.hook,
      file: file(p.name),
      info: { id: 1, type: 24, name: p.name, jitedBytes: 1, verifiedInstructions: w.verified },
    })),
    maps: verdict.maps.map((m) => ({
      name: m.name,
      file: file(m.name),
      info: {
        id: 2,
        name: m.name,
        type: 1,
        typeName: m.type,
        keyBytes: 4,
        valueBytes: 8,
        maxEntries: m.maxEntries,
        flags: 0,
        perCpu: false,
      },
      bytes: m.bytes,
      reused: m.name in (request.reuse ?? {}),
    })),
    close,
    [Symbol.dispose]: close,
  };
}

const load = (name: string, elf: string, more: object = {}) =>
  w.objects.load({ name, elf: b64(elf), ...more }, never);
const kind = async (p: unknown): Promise<string> => {
  try {
    await p;
    return 'granted';
  } catch (e) {
    return kindOf(e);
  }
};

describe('loading', () => {
  it('gives the arena, its size and the constants that are asked for', async () => {
    await load('a', 'p:x arena', { constants: { step: Buffer.from([0x34, 0x12, 0, 0]).toString('base64') } });
    expect(w.requests[0]?.constants).toEqual({ arena_bytes: 1n << 20n, step: 0x1234n });
    expect(w.requests[0]?.reuse).toEqual({ arena });
    expect(await kind(load('b', 'p:x', { constants: { step: b64('abc') } }))).toBe('INVALID_PARAMS');
  });

  it('is the same object only with the same content and constants', async () => {
    const one = { constants: { step: b64('1'), other: b64('2') } };
    await load('a', 'p:x', one);
    expect(await load('a', 'p:x', { constants: { other: b64('2'), step: b64('1') } })).toMatchObject({
      existed: true,
    });
    expect(await kind(load('a', 'p:x'))).toBe('EXISTS');
    expect(await kind(load('a', 'p:y', one))).toBe('EXISTS');
  });

  it('counts quotas of what is there already', async () => {
    w.settings.quotas = quotasSchema().parse({ objects: 2, maps: 2, mapBytes: 250, elfBytes: 30 });
    await load('a', 'p:x m:one m:two arena');
    expect(w.objects.used()).toEqual({ objects: 1, programs: 1, links: 0, maps: 2, mapBytes: 200 });
    expect(await kind(load('b', 'p:x '.padEnd(31)))).toBe('QUOTA');
    await load('b', 'p:x');
    expect(await kind(load('c', 'p:x'))).toBe('QUOTA');
  });

  it('leaves nothing of an object whose maps turn out larger than was left, or that was cancelled', async () => {
    w.settings.quotas = quotasSchema().parse({ mapBytes: 150 });
    expect(await kind(load('a', 'p:x m:one m:two'))).toBe('QUOTA');
    const cancelled = AbortSignal.abort(new HyperturtleError('HT_INTERRUPTED', 'cancelled'));
    expect(await kind(w.objects.load({ name: 'a', elf: b64('p:x') }, cancelled))).toBe('CANCELLED');
    expect(w.objects.list().objects).toEqual([]);
    expect(openFds()).toHaveLength(1);
  });

  it('refuses by rule before the loader sees it, and by the budget after the verifier', async () => {
    expect(await kind(load('a', 'evil'))).toBe('REFUSED');
    expect(w.requests).toEqual([]);
    w.verified = 300_000;
    const e: unknown = await load('a', 'p:x').catch((x: unknown) => x);
    expect(isHyperturtleError(e, 'HT_REFUSED') && e.detail).toMatchObject({
      rule: 'verified-instructions',
      program: 'x',
    });
  });

  it('refuses what may run for longer than the quota, of its hook alone', async () => {
    w.settings.quotas = quotasSchema().parse({ runUs: { npf: 8 } });
    const e: unknown = await load('a', 'p:x').catch((x: unknown) => x);
    expect(isHyperturtleError(e, 'HT_REFUSED') && e.detail).toMatchObject({ rule: 'run-time', program: 'x' });
    expect(isHyperturtleError(e) && e.message).toContain('9.0 us on a slow core, at most 8.0 allowed');
    await load('b', 'x:y');
    w.settings.quotas = quotasSchema().parse({ runUs: { npf: 9, sample: 100 } });
    await load('c', 'p:x');
    expect(runNsOf({ name: 'sample', runNs: 10_000 }, w.settings.quotas)).toBe(10_000);
    expect(() => quotasSchema().parse({ runUs: { nfp: 1 } })).toThrow(/nfp/);
  });

  it('calls what libbpf refuses the object’s fault', async () => {
    w.loadError = new HyperturtleError('HT_BPF', 'cannot be loaded: EINVAL');
    expect(await kind(load('a', 'p:x'))).toBe('REFUSED');
    w.loadError = new Error('our own bug');
    expect(await kind(load('a', 'p:x'))).toBe('INTERNAL');
  });

  it('asks for a signature as the VM is configured', async () => {
    const signature = { keyId: '0123456789abcdef', value: '' };
    expect((await load('a', 'p:x', { signature })).object.signedBy).toBeNull();
    w.settings.signature = 'optional';
    expect((await load('b', 'p:x')).object.signedBy).toBeNull();
    expect((await load('c', 'p:x', { signature })).object.signedBy).toBe('0123456789abcdef');
    w.settings.signature = 'required';
    expect(await kind(load('d', 'p:x'))).toBe('SIGNATURE');
    w.settings.verify = () => {
      throw new HyperturtleError('HT_SIGNATURE', 'not of these bytes');
    };
    expect(await kind(load('d', 'p:x', { signature }))).toBe('SIGNATURE');
  });
});

describe('linking', () => {
  it('needs a name only when several programs fit', async () => {
    await load('one', 'p:x');
    await load('two', 'p:x p:y');
    expect(await kind(w.objects.link({ object: 'two', hook: 'npf' }))).toBe('INVALID_PARAMS');
    expect((await w.objects.link({ object: 'two', hook: 'npf', program: 'y' })).link.program).toBe('y');
    expect(await kind(w.objects.link({ object: 'one', hook: 'npf' }))).toBe('HOOK_BUSY');
  });

  it('knows only hooks that the VM may use', async () => {
    await load('one', 'p:x');
    w.settings.policy = { hooks: [], forbiddenHelpers: [] };
    expect(await kind(w.objects.link({ object: 'one', hook: 'npf' }))).toBe('NOT_FOUND');
    expect(await kind(w.objects.link({ object: 'one', hook: 'xdp' }))).toBe('NOT_FOUND');
  });

  it('gives the arena to objects that have it, and to no others', async () => {
    await load('one', 'p:x arena');
    await w.objects.link({ object: 'one', hook: 'npf' });
    await w.objects.replace({ name: 'one', elf: b64('p:x') }, never);
    expect(w.calls).toEqual(['link x with arena', 'replace by x']);
  });

  it('is not there when the kernel refuses', async () => {
    await load('one', 'p:x');
    w.unlinkable.add('x');
    expect(await kind(w.objects.link({ object: 'one', hook: 'npf' }))).toBe('REFUSED');
    expect(w.objects.list().links).toEqual([]);
  });
});

describe('replacing', () => {
  const replace = (elf: string) => w.objects.replace({ name: 'a', elf: b64(elf) }, never);

  it('gives the link to the program of the same name, or to the only one', async () => {
    await load('a', 'p:x m:keep:5 m:change:5');
    const { link } = await w.objects.link({ object: 'a', hook: 'npf' });
    expect(await replace('p:y p:x m:keep:5 m:change:6 m:new')).toMatchObject({
      kept: ['keep'],
      created: ['change', 'new'],
    });
    expect(w.objects.list().links).toEqual([link]);
    await replace('p:z');
    expect(w.objects.list().links).toEqual([{ ...link, program: 'z' }]);
    expect(w.calls).toEqual(['link x', 'replace by x', 'replace by z']);
  });

  it('leaves all as it was when the kernel does not take the new program', async () => {
    await load('a', 'p:x');
    await w.objects.link({ object: 'a', hook: 'npf' });
    const before = w.objects.list();
    w.unlinkable.add('y');
    expect(await kind(replace('p:y'))).toBe('REFUSED');
    expect(await kind(replace('p:y p:z'))).toBe('INVALID_PARAMS');
    expect(await kind(replace('m:only'))).toBe('NOT_FOUND');
    expect(w.objects.list()).toEqual(before);
    expect(w.calls).toEqual(['link x']);
  });

  it('swaps links back, the last one first, when one of several cannot be swapped', async () => {
    await load('a', 'p:x x:e s:t');
    await w.objects.link({ object: 'a', hook: 'npf' });
    await w.objects.link({ object: 'a', hook: 'exit', options: { exits: ['cpuid'] } });
    await w.objects.link({ object: 'a', hook: 'sample', options: { hz: 99 } });
    const before = w.objects.list();
    w.calls = [];
    w.unlinkable.add('bad');
    expect(await kind(replace('p:y x:f s:bad'))).toBe('REFUSED');
    expect(w.calls.map((c) => c.split(' for ')[0])).toEqual([
      'replace by y',
      'replace by f',
      'replace by e',
      'replace by x',
    ]);
    expect(w.objects.list()).toEqual(before);
  });

  it('may use the quota that the old version sets free', async () => {
    w.settings.quotas = quotasSchema().parse({ objects: 1, mapBytes: 100 });
    await load('a', 'p:x m:one');
    expect(await kind(replace('p:x m:two'))).toBe('granted');
    expect(w.objects.used().mapBytes).toBe(100);
  });
});

it('clearing unlinks and unloads all', async () => {
  await load('a', 'p:x');
  await load('b', 'p:x');
  await w.objects.link({ object: 'b', hook: 'npf' });
  expect((await w.objects.clear()).map((l) => l.object)).toEqual(['b']);
  expect(w.objects.used()).toEqual({ objects: 0, programs: 0, links: 0, maps: 0, mapBytes: 0 });
  expect(w.calls.at(-1)).toBe('unlink');
});

describe('what a link asks of its hook', () => {
  const cpuid = { exits: ['cpuid' as const] };

  it('reaches the kernel, is listed, and stays when the program is replaced', async () => {
    await w.objects.load({ name: 'o', elf: b64('x:e') }, never);
    expect((await w.objects.link({ object: 'o', hook: 'exit', options: cpuid })).link.options).toEqual(cpuid);
    await w.objects.replace({ name: 'o', elf: b64('x:e m:new') }, never);
    expect(w.calls).toEqual(['link e for {"exits":["cpuid"]}', 'replace by e for {"exits":["cpuid"]}']);
    expect(w.objects.list().links).toMatchObject([{ options: cpuid }]);
  });

  it('is taken over at once when the same link asks for something else, and only then', async () => {
    await w.objects.load({ name: 'o', elf: b64('x:e') }, never);
    const hlt = { exits: ['hlt' as const], after: true };
    const { link } = await w.objects.link({ object: 'o', hook: 'exit', options: cpuid });
    await w.objects.link({ object: 'o', hook: 'exit', options: cpuid });
    expect(w.calls).toHaveLength(1);
    expect(await w.objects.link({ object: 'o', hook: 'exit', options: hlt })).toEqual({
      link: { ...link, options: hlt },
      existed: true,
    });
    expect(w.calls[1]).toBe('replace by e for {"exits":["hlt"],"after":true}');
  });

  it('may be as many samples a second as the quota says, also when a link is changed', async () => {
    await w.objects.load({ name: 'o', elf: b64('s:e') }, never);
    const at = (hz: number): Promise<unknown> =>
      w.objects.link({ object: 'o', hook: 'sample', options: { hz } });
    await expect(at(4001)).rejects.toThrow(/sampleHz.*4000.*4001 Hz asked for/);
    await at(4000);
    w.settings.quotas.sampleHz = 99;
    await expect(at(100)).rejects.toThrow(/sampleHz/);
    await at(99);
    expect(w.calls).toEqual(['link e for {"hz":4000}', 'replace by e for {"hz":99}']);
  });

  it("is refused where it is missing or is not that hook's", async () => {
    await w.objects.load({ name: 'o', elf: b64('x:e p:n') }, never);
    await expect(w.objects.link({ object: 'o', hook: 'exit' })).rejects.toThrow(
      /wants options \(exits, msrs/,
    );
    await expect(w.objects.link({ object: 'o', hook: 'exit', options: { hz: 99 } })).rejects.toThrow(
      /wants options/,
    );
    await expect(w.objects.link({ object: 'o', hook: 'npf', options: cpuid })).rejects.toThrow(
      /takes no options/,
    );
    expect(w.calls).toEqual([]);
  });
});

describe('calls', () => {
  const call = (o: object) => w.objects.links.call({ object: 'svc', ...o }, callBudget(), never);
  const link = (numbers: number[]) =>
    w.objects.link({ object: 'svc', hook: 'call', options: { numbers, from: 'both' } });

  it('run the program that is linked, with the number of its link and words of 64 bits', async () => {
    await load('svc', 'c:add');
    await link([0x48540010]);
    expect(await call({ words: ['0xffffffffffffffff', '0x2'] })).toEqual({
      answered: true,
      results: ['0xffffffffffffffff', '0xffffffffffffffff', '0x2'],
    });
    expect(w.calls.at(-1)).toBe(`call 1 ${0x48540010} 18446744073709551615 2`);
    await call({ program: 'add', number: 0x48540010 });
    expect(w.calls.at(-1)).toBe(`call 1 ${0x48540010} `);
  });

  it('need a link to call, of this object and program, and one of its numbers', async () => {
    const refusal = (o: object): Promise<unknown> => kind(call(o));
    expect(await refusal({})).toBe('NOT_FOUND');
    await load('svc', 'c:add x:other');
    await w.objects.link({ object: 'svc', hook: 'exit', options: { exits: ['hlt'] } });
    expect(await refusal({})).toBe('NOT_FOUND');
    await link([256, 257]);
    expect(await refusal({ program: 'other' })).toBe('NOT_FOUND');
    expect(await refusal({ object: 'another' })).toBe('NOT_FOUND');
    expect(await refusal({})).toBe('INVALID_PARAMS');
    expect(await refusal({ number: 258 })).toBe('INVALID_PARAMS');
    expect(await refusal({ number: 257 })).toBe('granted');
    await w.objects.links.unlink(2);
    expect(await refusal({ number: 257 })).toBe('NOT_FOUND');
  });

  it('have options that say which numbers, never those of hypervisors', async () => {
    await load('svc', 'c:add');
    await expect(w.objects.link({ object: 'svc', hook: 'call' })).rejects.toThrow(
      /wants options \(numbers, from, user\)/,
    );
    await expect(link([255])).rejects.toThrow(/wants options/);
    await expect(link([])).rejects.toThrow(/wants options/);
    await expect(link(Array.from({ length: 29 }, (_, i) => 256 + i))).rejects.toThrow(/wants options/);
    expect(w.calls).toEqual([]);
  });
});

describe('a link that the kernel ends', () => {
  const end = { hook: 'npf', programId: 1, ns: 900_000, limitNs: 200_000 } as const;
  const ended = (): unknown => w.objects.list().ended;
  afterEach(() => vi.useRealTimers());

  it('is no link any more; list says why until its object is replaced, and nothing is linked for a minute', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    await load('one', 'p:x');
    const { link } = await w.objects.link({ object: 'one', hook: 'npf' });
    w.linked = false;
    expect(w.objects.links.overran(end, 'slow')).toEqual(link);
    expect(w.objects.list()).toMatchObject({ links: [], ended: [{ link, reason: 'slow' }] });
    expect(await kind(w.objects.link({ object: 'one', hook: 'npf' }))).toBe('BUSY');
    await w.objects.replace({ name: 'one', elf: b64('p:x p:y') }, never);
    expect(ended()).toBeUndefined();
    expect(await kind(w.objects.link({ object: 'one', hook: 'npf', program: 'y' }))).toBe('BUSY');
    vi.advanceTimersByTime(60_000);
    expect(await kind(w.objects.link({ object: 'one', hook: 'npf', program: 'y' }))).toBe('granted');
  });

  it('is forgotten when it is made again by hand', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    await load('one', 'p:x');
    await w.objects.link({ object: 'one', hook: 'npf' });
    w.linked = false;
    w.objects.links.overran(end, 'slow');
    vi.advanceTimersByTime(60_000);
    expect(ended()).toHaveLength(1);
    await w.objects.link({ object: 'one', hook: 'npf' });
    expect(ended()).toBeUndefined();
  });

  it('stays when another program, or the same one linked again, has taken its place by then', async () => {
    await load('one', 'p:x');
    const { link } = await w.objects.link({ object: 'one', hook: 'npf' });
    expect(w.objects.links.overran({ ...end, programId: 77 }, 'slow')).toBeUndefined();
    expect(w.objects.links.overran(end, 'slow')).toBeUndefined();
    expect(w.objects.list().links).toEqual([link]);
  });
});
