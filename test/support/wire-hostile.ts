/** What a hostile or broken peer may send, generated, with what the wire's documentation says is the answer. */
import fc from 'fast-check';
import { METHODS } from '../../src/wire/schema.ts';
import type { MethodName } from '../../src/wire/schema.ts';
import { HELLO } from './wire.ts';

/** Lines as bytes without a newline; one answer with one of these kinds, or none. */
export interface BadLine {
  what: string;
  bytes: Buffer;
  /** Empty: it is ignored. */
  kinds: readonly string[];
  /** Whether an answer of these kinds must come, or may (what random damage leaves may be harmless). */
  sure: boolean;
}

/** Params that fit the schema, to be broken. */
export const GOOD_PARAMS: { readonly [M in MethodName]: Readonly<Record<string, unknown>> } = {
  hello: HELLO,
  ping: {},
  limits: {},
  load: { name: 'npf', elf: 'f0VMRg==', signature: { keyId: '0123456789abcdef', value: 'AAAA' } },
  unload: { name: 'npf', force: true },
  replace: { name: 'npf', elf: 'f0VMRg==', constants: { limit: 'AQAAAA==' } },
  link: { object: 'npf', program: 'npf', hook: 'npf', target: 'l2' },
  unlink: { id: 1 },
  call: { object: 'npf', program: 'npf', number: 256, words: ['0x1', '0xffffffffffffffff'] },
  list: {},
  stats: {},
  'map.get': { object: 'npf', map: 'state', key: 'AAAAAA==' },
  'map.set': { object: 'npf', map: 'state', key: 'AAAAAA==', value: 'AAAA', mode: 'any' },
  'map.delete': { object: 'npf', map: 'state', key: 'AAAAAA==' },
  'map.dump': { object: 'npf', map: '.rodata', limit: 10, cursor: 'x' },
  'map.watch': { object: 'npf', map: 'state', intervalMs: 100, keys: ['AAAA'] },
  'map.unwatch': { watch: 1 },
  events: { since: 0 },
  'nic.add': { id: 'n1', network: 'lan', mac: '02:00:00:00:00:01' },
  'nic.del': { id: 'n1' },
  'nic.list': {},
  report: { pool: null, l2Count: 0, l2s: [] },
  doctor: {},
};

const methodName = fc.constantFrom(...(Object.keys(METHODS) as MethodName[]));
const request = (id: unknown, method: unknown, params: unknown): Record<string, unknown> => ({
  jsonrpc: '2.0',
  id,
  method,
  params,
});
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value), 'utf8');
const line =
  (what: string, kinds: readonly string[], sure = true) =>
  (bytes: Buffer): BadLine => ({ what, bytes, kinds, sure });
const noNewline = (bytes: Uint8Array): Buffer => Buffer.from(bytes.map((b) => (b === 0x0a ? 0x0b : b)));

const REFUSED = ['PARSE_ERROR', 'INVALID_REQUEST'] as const;

const nonsense = fc
  .uint8Array({ minLength: 1, maxLength: 200 })
  .map(noNewline)
  .map(line('nonsense bytes', REFUSED));

const anyJson = fc.jsonValue({ maxDepth: 6 }).map(json).map(line('some JSON', REFUSED));

const batch = fc
  .array(methodName, { maxLength: 5 })
  .map((names) => json(names.map((m, id) => request(id, m, GOOD_PARAMS[m]))))
  .map(line('a batch', ['INVALID_REQUEST']));

const truncated = fc
  .tuple(methodName, fc.double({ min: 0.01, max: 0.999, noNaN: true }))
  .map(([m, where]) => {
    const whole = json(request(1, m, GOOD_PARAMS[m]));
    return whole.subarray(0, Math.max(1, Math.floor(whole.length * where)));
  })
  .map(line('a truncated request', ['PARSE_ERROR']));

const badUtf8 = fc
  .tuple(methodName, fc.constantFrom([0xc0, 0x80], [0xff], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80]))
  .map(([m, bytes]) =>
    Buffer.concat([
      Buffer.from(`{"jsonrpc":"2.0","id":1,"method":"${m}","params":{"name":"`),
      Buffer.from(bytes),
      Buffer.from('"}}'),
    ]),
  )
  .map(line('text that is not UTF-8', ['PARSE_ERROR']));

const badId = fc
  .tuple(
    methodName,
    fc.oneof(
      fc.constantFrom(null, true, {}, [], 1e300, 0.5, -1.25, 2 ** 53),
      fc.string({ minLength: 65, maxLength: 300 }),
    ),
  )
  .map(([m, id]) => json(request(id, m, GOOD_PARAMS[m])))
  .map(line('an id that is none', ['INVALID_REQUEST']));

const badEnvelope = fc
  .tuple(
    methodName,
    fc.constantFrom<(r: Record<string, unknown>) => unknown>(
      (r) => ({ ...r, jsonrpc: '1.0' }),
      (r) => ({ ...r, jsonrpc: 2 }),
      (r) => ({ id: r['id'], method: r['method'] }),
      (r) => ({ ...r, method: 7 }),
      (r) => ({ ...r, method: null }),
      (r) => ({ ...r, method: 'm'.repeat(65) }),
      (r) => ({ ...r, extra: 1 }),
      (r) => ({ ...r, result: {} }),
      (r) => ({ jsonrpc: '2.0', id: r['id'] }),
      (r) => ({ jsonrpc: '2.0', id: r['id'], result: {}, error: { code: 1, message: '' } }),
      (r) => ({ jsonrpc: '2.0', id: r['id'], error: 'text' }),
    ),
  )
  .map(([m, damage]) => json(damage(request(1, m, GOOD_PARAMS[m]))))
  .map(line('an envelope that is not JSON-RPC 2.0', ['INVALID_REQUEST']));

const unknownMethod = fc
  .oneof(
    fc.constantFrom(
      '__proto__',
      'constructor',
      'toString',
      'hasOwnProperty',
      '',
      'Load',
      'map',
      'admin.list',
    ),
    fc.string({ maxLength: 60 }),
  )
  .filter((m) => !Object.hasOwn(METHODS, m))
  .map((m) => json(request(1, m, {})))
  .map(line('a method that is not there', ['METHOD_NOT_FOUND']));

const WRONG: readonly unknown[] = [
  null,
  true,
  -1,
  0.5,
  1e300,
  [],
  {},
  '../..',
  '',
  '\u0000',
  'é',
  'A'.repeat(64),
];

/** One member of good params replaced, taken away or added. */
const badParams = fc
  .tuple(methodName, fc.nat(), fc.nat(), fc.string({ maxLength: 20 }))
  .map(([m, which, wrong, key]): [MethodName, unknown] => {
    const good = GOOD_PARAMS[m];
    const keys = Object.keys(good);
    const at = keys[which % (keys.length + 2)];
    if (at !== undefined) return [m, { ...good, [at]: WRONG[wrong % WRONG.length] }];
    return which % 2 === 0 ? [m, WRONG.slice(0, 6)[wrong % 6]] : [m, { ...good, [`x${key}`]: wrong }];
  })
  .filter(([m, params]) => !METHODS[m].params().safeParse(params).success)
  .map(([m, params]) => json(request(1, m, params)))
  .map(line('params that break the schema', ['INVALID_PARAMS']));

const answer = fc
  .tuple(fc.oneof(fc.integer(), fc.string({ maxLength: 60 })), fc.jsonValue({ maxDepth: 3 }), fc.boolean())
  .map(([id, value, good]) =>
    json(
      good
        ? { jsonrpc: '2.0', id, result: value }
        : { jsonrpc: '2.0', id, error: { code: -1, message: 'no', data: value } },
    ),
  )
  .map(line('an answer to nothing', []));

const notification = fc
  .oneof(
    fc.tuple(fc.string({ maxLength: 60 }), fc.jsonValue({ maxDepth: 3 })),
    fc.tuple(fc.constant('$/cancelRequest'), fc.jsonValue({ maxDepth: 2 })),
    fc.tuple(fc.constant('$/cancelRequest'), fc.record({ id: fc.integer() })),
    methodName.map((m): [string, unknown] => [m, GOOD_PARAMS[m]]),
  )
  .map(([method, params]) => json({ jsonrpc: '2.0', method, params }))
  .map(line('a notification nobody takes', []));

const deep = fc
  .tuple(fc.integer({ min: 33, max: 20_000 }), fc.constantFrom('[', '{"a":', '[{"":['), fc.boolean())
  .map(([depth, open, inside]) =>
    Buffer.from(
      inside ? `{"jsonrpc":"2.0","id":1,"method":"ping","params":${open.repeat(depth)}` : open.repeat(depth),
    ),
  )
  .map(line('deep nesting', ['PARSE_ERROR']));

const wide = fc
  .tuple(fc.integer({ min: 8200, max: 30_000 }), fc.constantFrom('0,', '{},', '"",'))
  .map(([n, item]) => Buffer.from(`{"jsonrpc":"2.0","id":1,"method":"load","params":[${item.repeat(n)}0]}`))
  .map(line('too many values', ['PARSE_ERROR']));

export const FRAME_BYTES = 128 << 10;

/** Longer than FRAME_BYTES, which the test sets as the limit. */
const long = fc
  .tuple(
    fc.integer({ min: FRAME_BYTES + 1, max: 3 * FRAME_BYTES }),
    fc.constantFrom(' ', 'a', '"', '\\', '{'),
  )
  .map(([n, c]) => Buffer.alloc(n, c))
  .map(line('a line that is too long', ['PARSE_ERROR']));

/** Not `stats`, which damage may leave as it was, and which the tests serve without an end. */
const flipped = fc
  .tuple(methodName, fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { minLength: 1, maxLength: 4 }))
  .filter(([m]) => m !== 'hello' && m !== 'stats')
  .map(([m, flips]) => {
    const bytes = json(request(1, m, GOOD_PARAMS[m]));
    for (const [at, value] of flips) bytes[at % bytes.length] = value;
    return noNewline(bytes);
  })
  .map(
    line(
      'a request with damaged bytes',
      [...REFUSED, 'METHOD_NOT_FOUND', 'INVALID_PARAMS', 'INTERNAL'],
      false,
    ),
  );

const empty = fc.constant(Buffer.alloc(0)).map(line('an empty line', []));

export const badLine: fc.Arbitrary<BadLine> = fc.oneof(
  { weight: 10, arbitrary: nonsense },
  { weight: 10, arbitrary: anyJson },
  { weight: 5, arbitrary: batch },
  { weight: 10, arbitrary: truncated },
  { weight: 5, arbitrary: badUtf8 },
  { weight: 10, arbitrary: badId },
  { weight: 10, arbitrary: badEnvelope },
  { weight: 10, arbitrary: unknownMethod },
  { weight: 20, arbitrary: badParams },
  { weight: 5, arbitrary: answer },
  { weight: 5, arbitrary: notification },
  { weight: 2, arbitrary: deep },
  { weight: 1, arbitrary: wide },
  { weight: 1, arbitrary: long },
  { weight: 10, arbitrary: flipped },
  { weight: 1, arbitrary: empty },
);

/** Where the bytes are cut on their way. */
export const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 3 });

export function pieces(bytes: Buffer, at: readonly number[]): Buffer[] {
  const marks = [0, ...at.map((x) => Math.floor(x * bytes.length)).sort((a, b) => a - b), bytes.length];
  return marks.slice(1).map((end, i) => bytes.subarray(marks[i], end));
}

/** The kinds of what came back, and what is wrong with them, if anything. */
export function complaint(bad: BadLine, answers: readonly Record<string, unknown>[]): string | undefined {
  const kinds = answers.map(
    (a) => (a['error'] as { data?: { kind?: string } } | undefined)?.data?.kind ?? 'no error',
  );
  const say = (why: string): string =>
    `${bad.what}: ${why}; answers: ${JSON.stringify(answers).slice(0, 300)}; line: ${bad.bytes.toString('latin1').slice(0, 200)}`;
  if (!bad.sure)
    return kinds.length <= 1 && kinds.every((k) => bad.kinds.includes(k) || k === 'no error')
      ? undefined
      : say('at most one documented answer is expected');
  if (bad.kinds.length === 0) return kinds.length === 0 ? undefined : say('no answer is expected');
  return kinds.length === 1 && bad.kinds.includes(kinds[0]!)
    ? undefined
    : say(`one of ${bad.kinds.join(', ')} is expected`);
}
