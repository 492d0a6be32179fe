/**
 * What a hostile L1 writes into its port: lines that are none, messages that break the protocol, and well-formed requests
 * with members that are wrong, too large or of somebody else. Seeded. Nothing here asks for much work of the daemon at a
 * time: how floods are held back is tested elsewhere (test/integration/hostile-messages.test.ts).
 */
import { CANCEL, METHODS } from '../wire/schema.ts';
import type { MethodName } from '../wire/schema.ts';
import type { Random } from './random.ts';
import { setOwn } from '../core/own.ts';

type Params = Readonly<Record<string, unknown>>;

/** Params that fit. Of `load` and `replace` they are refused all the same: the file is none. */
const GOOD: { readonly [M in MethodName]: Params } = {
  hello: {
    protocol: { min: 1, max: 1 },
    agent: { version: '0', kernel: 'fuzz' },
    bootId: '0d9c3a52-6e0b-4f0e-8d0f-4d1f6a2b7c33',
    nonce: '5f2c9e0b71aa43d8',
  },
  ping: {},
  limits: {},
  load: { name: 'none', elf: 'f0VMRg==', constants: { seed: 'AQAAAAAAAAA=' } },
  unload: { name: 'none' },
  replace: { name: 'npf', elf: 'f0VMRg==' },
  link: { object: 'none', hook: 'npf', target: 'all' },
  unlink: { id: 4_000_000 },
  call: { object: 'none', number: 0x4854_0001, words: ['0x1', '0xffffffffffffffff'] },
  list: {},
  stats: {},
  'map.get': { object: 'fuzz-npf', map: 'fuzz_state', key: 'AAAAAA==' },
  'map.set': { object: 'fuzz-npf', map: 'fuzz_state', key: 'AAAAAA==', value: 'AAAAAAAAAAAAAAAAAAAAAA==' },
  'map.delete': { object: 'exit-cache', map: 'exits', key: 'AAAAAAAAAAAAAAAAAAAAAA==' },
  'map.dump': { object: 'exit-cache', map: 'exits', limit: 4 },
  'map.watch': { object: 'fuzz-npf', map: 'fuzz_state', intervalMs: 60_000, keys: ['AAAAAA=='] },
  'map.unwatch': { watch: 1 },
  events: { since: 0 },
  'nic.add': { id: 'n1', network: 'lan' },
  'nic.del': { id: 'n1' },
  'nic.list': {},
  report: { pool: null, l2Count: 0, l2s: [] },
  doctor: {},
};
const NAMES = Object.keys(METHODS) as MethodName[];
/** Never in order: a second hello would end the session's programs, and the daemon asks for one by itself. */
const ASKED = NAMES.filter((m) => m !== 'hello');

const WRONG: readonly unknown[] = [
  ...[null, true, -1, 0.5, 1e300, 2 ** 53, -(2 ** 31), [], {}, [[]], { toString: 1 }],
  ...['', '../..', '\u0000', 'é\u202e', '__proto__', 'A'.repeat(5000), 'AAA', '=', 'npf', 'all'],
  ...[Array<string>(1100).fill('AAAAAA=='), { __proto__: null, a: { a: { a: {} } } }],
];

const line = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value)}\n`, 'utf8');

const request = (r: Random, method: unknown, params: unknown): Record<string, unknown> => ({
  jsonrpc: '2.0',
  id: r.once(8) ? r.pick(WRONG) : `f${r.below(1 << 30)}`,
  method,
  params,
});

function broken(r: Random): Record<string, unknown> {
  const method = r.pick(ASKED);
  const params: Record<string, unknown> = { ...GOOD[method] };
  const keys = [...Object.keys(params), 'also'];
  setOwn(params, r.pick(keys), r.pick(WRONG));
  return request(r, method, params);
}

function damaged(r: Random): Buffer {
  const bytes = line(r.once(2) ? broken(r) : request(r, r.pick(ASKED), GOOD[r.pick(ASKED)]));
  for (let i = r.below(4); i >= 0; i--) bytes[r.below(bytes.length)] = r.below(256);
  return r.once(2) ? bytes : bytes.subarray(0, r.below(bytes.length));
}

const KINDS: readonly ((r: Random) => Buffer)[] = [
  (r) => line(broken(r)),
  (r) => line(broken(r)),
  (r) => {
    const method = r.pick(ASKED);
    return line(request(r, method, GOOD[method]));
  },
  damaged,
  (r) => Buffer.concat([r.bytes(1 + r.below(200)), Buffer.from('\n')]),
  (r) => line(request(r, r.pick(['__proto__', 'admin.vm.add', '', 'Load', 7, null]), {})),
  (r) => line({ jsonrpc: '2.0', method: CANCEL, params: { id: r.pick(WRONG) } }),
  (r) => line({ jsonrpc: '2.0', id: r.below(1000), result: r.pick(WRONG) }),
  (r) => line(Array.from({ length: r.below(5) }, () => broken(r))),
  (r) => Buffer.from(`${'[{"a":'.repeat(20 + r.below(2000))}\n`),
];

/** Some lines, about `n`: damage may join two or split one. */
export function hostileLines(r: Random, n: number): Buffer {
  return Buffer.concat([...Array.from({ length: n }, () => r.pick(KINDS)(r)), Buffer.from('\n')]);
}
