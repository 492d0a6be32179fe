/**
 * Requests that a hostile L1 may send to a daemon once its hello was answered: well-formed messages with params that
 * are wrong in themselves or name what the VM does not have. With them the kinds of errors that
 * docs/wire-protocol.md promises. What is wrong with lines and envelopes is in wire-hostile.ts.
 */
import fc from 'fast-check';
import type { ErrorKind } from '../../src/wire/errors.ts';
import { CANCEL, METHODS } from '../../src/wire/schema.ts';
import type { MethodName } from '../../src/wire/schema.ts';
import { GOOD_PARAMS } from './wire-hostile.ts';

/** What the VM has when it attacks. */
export interface Prepared {
  /** Its only object, GOOD_OBJECT of bad-objects.ts; linked, and its ring buffer is watched. */
  object: string;
  /** The file of that object. */
  elf: Uint8Array;
  /** Ids of its links and watches: not to be named. */
  links: readonly number[];
  watches: readonly number[];
  /** Names of another VM's objects. */
  foreign: readonly string[];
  /** Quota. */
  elfBytes: number;
  /** A key of which the daemon knows the public half. */
  keyId: string;
}

export interface BadCall {
  what: string;
  /** The messages of it, for an id that nothing else has. */
  messages: (id: string) => readonly unknown[];
  /** How many answers come to that id. */
  answers: number;
  /** Each answer is an error of one of these. */
  kinds: readonly ErrorKind[];
}

type Params = Readonly<Record<string, unknown>>;

const request = (id: unknown, method: string, params: unknown): unknown => ({
  jsonrpc: '2.0',
  id,
  method,
  params,
});
const call =
  (what: string, ...kinds: ErrorKind[]) =>
  ([method, params]: readonly [MethodName, unknown]): BadCall => ({
    what,
    messages: (id) => [request(id, method, params)],
    answers: 1,
    kinds,
  });
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
const bytesBut = (size: number): fc.Arbitrary<string> =>
  fc
    .uint8Array({ maxLength: 64 })
    .filter((b) => b.length !== size)
    .map(base64);

const methodName = fc.constantFrom(...(Object.keys(METHODS) as MethodName[]));

const WRONG_TYPE = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, [], {}, [[]], [null], { toString: 1 }),
  fc.double({ noDefaultInfinity: true, noNaN: true }),
  fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n }).map(Number),
  fc.integer({ max: -1 }),
  fc.jsonValue({ maxDepth: 3 }),
  fc.string({ unit: 'binary', maxLength: 80 }),
);
const NOT_BASE64 = fc.oneof(
  fc.constantFrom('A', 'AAA', 'AA=A', '=AAA', 'A===', 'AAA=AAAA', '####', 'AAAA\n', '-_-_', 'AAA\u0000'),
  fc.string({ minLength: 1, maxLength: 64 }),
);
const OVERSIZED = fc
  .tuple(fc.constantFrom('A', '/', 'é', '\u0000'), fc.integer({ min: 4097, max: 100_000 }))
  .map(([c, n]) => c.repeat(n));

/** One or more members of good params replaced, or further ones added, so that the schema is broken. */
const broken = (what: string, wrong: fc.Arbitrary<unknown>): fc.Arbitrary<BadCall> =>
  fc
    .tuple(methodName, fc.array(fc.tuple(fc.nat(), wrong), { minLength: 1, maxLength: 3 }))
    .map(([method, changes]): [MethodName, unknown] => {
      const params: Record<string, unknown> = { ...GOOD_PARAMS[method] };
      const keys = [...Object.keys(params), 'also'];
      for (const [which, value] of changes) params[keys[which % keys.length]!] = value;
      return [method, params];
    })
    .filter(([method, params]) => !METHODS[method].params().safeParse(params).success)
    .map(call(what, 'INVALID_PARAMS'));

const OUT_OF_RANGE: readonly [MethodName, Params][] = [
  ['unlink', { id: -1 }],
  ['unlink', { id: 2 ** 53 }],
  ['unlink', { id: 1.5 }],
  ['map.dump', { limit: 0 }],
  ['map.dump', { limit: 1025 }],
  ['map.dump', { limit: -(2 ** 31) }],
  ['map.dump', { cursor: 'A'.repeat(8193) }],
  ['map.watch', { intervalMs: 99 }],
  ['map.watch', { intervalMs: 0 }],
  ['map.watch', { intervalMs: 3_600_001 }],
  ['map.watch', { keys: Array<string>(1025).fill('AAAAAA==') }],
  ['map.set', { mode: 'never' }],
  ['map.unwatch', { watch: -1 }],
  ['events', { since: -1 }],
  ['events', { since: 1e300 }],
  ['link', { target: 'x'.repeat(4097) }],
  ['load', { name: 'n'.repeat(64) }],
  ['load', { constants: { 'not a name': 'AAAA' } }],
  ['replace', { signature: { keyId: '0123', value: 'AAAA' } }],
  ['hello', { nonce: 'short' }],
  ['hello', { protocol: { min: -1, max: 1 } }],
  ['hello', { bootId: 'none' }],
];
const outOfRange = fc
  .constantFrom(...OUT_OF_RANGE)
  .map(([method, params]): [MethodName, Params] => [method, { ...GOOD_PARAMS[method], ...params }])
  .map(call('numbers and texts out of range', 'INVALID_PARAMS'));

export function badCall(has: Prepared): fc.Arbitrary<BadCall> {
  const { object } = has;
  const elf = base64(has.elf);
  const unknown = fc
    .oneof(
      fc.constantFrom(...has.foreign, '__proto__', 'constructor', 'toString', 'arena', '0'),
      fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/),
    )
    .filter((name) => name !== object);
  const unknownMap = fc.oneof(
    fc.constantFrom('.text', 'maps', 'license', 'npf', '.rodata.str', 'tables'),
    unknown.filter((n) => !['arena', 'table', 'recent', 'each', 'notes'].includes(n)),
  );
  const id = (own: readonly number[]): fc.Arbitrary<number> =>
    fc
      .oneof(fc.nat({ max: 64 }), fc.maxSafeNat(), fc.constant(Number.MAX_SAFE_INTEGER))
      .filter((n) => !own.includes(n));
  const at = (map: string, more: Params = {}): Params => ({ object, map, ...more });
  const key = base64(new Uint8Array(4));
  const value = base64(new Uint8Array(8));

  const unknownThings = fc
    .oneof(
      unknown.map((name): [MethodName, Params] => ['unload', { name, force: true }]),
      unknown.map((name): [MethodName, Params] => ['replace', { name, elf }]),
      unknown.map((name): [MethodName, Params] => ['link', { object: name, hook: 'npf' }]),
      unknown.map((program): [MethodName, Params] => [
        'link',
        { object, hook: 'npf', program: `${program}`.slice(0, 62) + '_' },
      ]),
      unknown.filter((n) => n !== 'npf').map((hook): [MethodName, Params] => ['link', { object, hook }]),
      id(has.links).map((n): [MethodName, Params] => ['unlink', { id: n }]),
      id(has.watches).map((watch): [MethodName, Params] => ['map.unwatch', { watch }]),
      fc
        .tuple(
          fc.constantFrom<[MethodName, Params]>(
            ['map.get', { key }],
            ['map.set', { key, value }],
            ['map.delete', { key }],
            ['map.dump', {}],
            ['map.watch', { intervalMs: 100 }],
          ),
          fc.oneof(
            fc.record({ object: unknown, map: fc.constant('table') }),
            fc.record({ object: fc.constant(object), map: unknownMap }),
          ),
        )
        .map(([[method, more], where]): [MethodName, Params] => [method, { ...where, ...more }]),
      fc.constant<[MethodName, Params]>(['map.set', at('recent', { key: value, value, mode: 'exist' })]),
    )
    .map(call('what the VM does not have, or another VM has', 'NOT_FOUND'));

  const wrongSizes = fc
    .oneof(
      fc
        .tuple(
          fc.constantFrom('map.get', 'map.delete', 'map.set'),
          fc.constantFrom('table', 'each'),
          bytesBut(4),
        )
        .map(([method, map, k]): [MethodName, Params] => [
          method as MethodName,
          at(map, { key: k, ...(method === 'map.set' ? { value } : {}) }),
        ]),
      bytesBut(8).map((v): [MethodName, Params] => ['map.set', at('table', { key, value: v })]),
      fc
        .integer({ min: 9, max: 300_000 })
        .map((n): [MethodName, Params] => [
          'map.set',
          at('table', { key, value: base64(new Uint8Array(n)) }),
        ]),
      bytesBut(4).map((cursor): [MethodName, Params] => ['map.dump', at('table', { cursor })]),
      fc
        .array(bytesBut(4), { minLength: 1, maxLength: 20 })
        .map((keys): [MethodName, Params] => ['map.watch', at('table', { intervalMs: 100, keys })]),
    )
    .map(call('keys and values of the wrong size', 'INVALID_PARAMS'));

  const wrongMaps = fc
    .oneof(
      fc
        .tuple(
          fc.constantFrom('arena', 'notes'),
          fc.constantFrom<[MethodName, Params]>(
            ['map.get', { key }],
            ['map.set', { key, value }],
            ['map.delete', { key }],
            ['map.dump', {}],
          ),
        )
        .map(([map, [method, more]]): [MethodName, Params] => [method, at(map, more)]),
      fc.constantFrom<[MethodName, Params]>(
        ['map.watch', at('arena', { intervalMs: 100 })],
        ['map.delete', at('table', { key })],
        ['link', { object, hook: 'npf', target: 'all' }],
        ['replace', { name: object, elf, constants: { limit: 'AAAA' } }],
      ),
    )
    .map(call('what this map, hook or variable cannot', 'INVALID_PARAMS'));

  const quotas = fc
    .oneof(
      {
        weight: 8,
        arbitrary: fc.integer({ min: 100, max: 2 ** 31 }).map((n): [MethodName, Params] => {
          const index = Buffer.alloc(4);
          index.writeUInt32LE(n);
          return ['map.set', at('table', { key: base64(index), value })];
        }),
      },
      {
        weight: 1,
        arbitrary: fc
          .integer({ min: has.elfBytes + 1, max: has.elfBytes + 4096 })
          .map((n): [MethodName, Params] => ['load', { name: 'large', elf: base64(new Uint8Array(n)) }]),
      },
    )
    .map(call('more than there is room for', 'QUOTA'));

  const elfOrNone = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map(base64),
    fc.integer({ min: 0, max: has.elf.length - 64 }).map((n) => base64(has.elf.subarray(0, n))),
  );
  const nameFor = fc.constantFrom<[MethodName, string]>(['load', 'new'], ['replace', object]);
  const objects = fc
    .tuple(nameFor, elfOrNone)
    .map(([[method, name], bytes]): [MethodName, Params] => [method, { name, elf: bytes }])
    .map(call('objects that are none', 'REFUSED'));
  const exists = elfOrNone
    .map((bytes): [MethodName, Params] => ['load', { name: object, elf: bytes }])
    .map(call('an object in the place of another', 'EXISTS'));
  const inUse = fc
    .constantFrom<[MethodName, Params]>(
      ['unload', { name: object }],
      ['map.watch', at('notes', { intervalMs: 100 })],
    )
    .map(call('what is in use', 'IN_USE'));
  const signatures = fc
    .tuple(nameFor, fc.constantFrom(has.keyId, '0123456789abcdef'), fc.uint8Array({ maxLength: 80 }))
    .map(([[method, name], keyId, bytes]): [MethodName, Params] => [
      method,
      { name, elf: base64(has.elf.subarray(0, 100)), signature: { keyId, value: base64(bytes) } },
    ])
    .map(call('signatures that are none', 'SIGNATURE'));

  const refused = ['replace', { name: object, elf: base64(has.elf.subarray(0, 1000)) }] as const;
  const twice = fc.constant<BadCall>({
    what: 'an id that is in use',
    messages: (i) => [request(i, ...refused), request(i, ...refused)],
    answers: 2,
    // the first may have been answered before the second is read
    kinds: ['REFUSED', 'INVALID_REQUEST'],
  });
  const cancelled = fc.constant<BadCall>({
    what: 'a refused request that is cancelled, twice',
    messages: (i) => {
      const cancel = { jsonrpc: '2.0', method: CANCEL, params: { id: i } };
      return [request(i, ...refused), cancel, cancel];
    },
    answers: 1,
    kinds: ['REFUSED', 'CANCELLED'],
  });
  const cancelNothing = fc
    .oneof(
      fc.integer().map((i): unknown => ({ id: i })),
      fc.string({ maxLength: 64 }).map((i): unknown => ({ id: `none ${i}` })),
      WRONG_TYPE,
    )
    .map(
      (params): BadCall => ({
        what: 'a cancellation of nothing',
        messages: () => [{ jsonrpc: '2.0', method: CANCEL, params }],
        answers: 0,
        kinds: [],
      }),
    );

  return fc.oneof(
    { weight: 20, arbitrary: broken('params of the wrong type', WRONG_TYPE) },
    { weight: 10, arbitrary: broken('what is not base64', NOT_BASE64) },
    { weight: 2, arbitrary: broken('texts that are too long', OVERSIZED) },
    { weight: 10, arbitrary: outOfRange },
    { weight: 25, arbitrary: unknownThings },
    { weight: 10, arbitrary: wrongSizes },
    { weight: 5, arbitrary: wrongMaps },
    { weight: 4, arbitrary: quotas },
    { weight: 4, arbitrary: objects },
    { weight: 4, arbitrary: exists },
    { weight: 4, arbitrary: inUse },
    { weight: 4, arbitrary: signatures },
    { weight: 2, arbitrary: twice },
    { weight: 2, arbitrary: cancelled },
    { weight: 5, arbitrary: cancelNothing },
  );
}
