/**
 * Small programs for each hook with changed instructions, checked by us and by the kernel's verifier. What one takes and
 * the other does not is counted by class: docs/admission.md explains the classes.
 */
import { BpfObject } from '../../src/bpf/object.ts';
import { HyperturtleError, messageOf } from '../../src/core/errors.ts';
import { checkObject } from '../../src/host/admission/check.ts';
import { packetProgramTypes } from '../../src/host/hooks.ts';
import { codeRanges, mutateCode, random } from './mutate.ts';

const MAPS = `
#define MAP(n, t, k, v, e) struct { __uint(type, BPF_MAP_TYPE_##t); __uint(max_entries, e); \\
	__type(key, k); __type(value, v); } n SEC(".maps");
static void *(*lookup)(void *, const void *) = (void *)1;
static long (*update)(void *, const void *, const void *, __u64) = (void *)2;
static __u64 (*now)(void) = (void *)5;
static __u32 (*any)(void) = (void *)7;
static long (*output)(void *, void *, __u64, __u64) = (void *)130;
`;
const RAW = 'struct bpf_raw_tracepoint_args *args';
const program = (section: string, argument: string, maps: string, body: string): string =>
  `#pragma clang diagnostic ignored "-Wunused"\n${MAPS}${maps}
SEC("${section}") int prog(${argument})
{
	__u32 zero = 0;
	${body}
}`;

/** Enough of each kind of instruction that one may be changed into another that is right elsewhere. */
export const SEEDS: Readonly<Record<string, string>> = {
  arithmetic: program(
    'raw_tp.w/hyperturtle_npf',
    RAW,
    'MAP(table, ARRAY, __u32, __u64, 4)',
    `__u64 a = any(), b = now();
	a = a * 3 + (b >> 7); b ^= a; if (a > b) a -= b; else a |= 0x10;
	__u64 *v = lookup(&table, &zero);
	if (v) *v = a / (b | 1) + (__u32)(a % 7);
	return 0;`,
  ),
  context: program(
    'raw_tp.w/hyperturtle_npf',
    RAW,
    'MAP(table, HASH, __u64, __u64, 4)',
    `struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u64 key = ctx->gpa >> 12, *v = lookup(&table, &key);
	if (!v) { update(&table, &key, &key, 0); return 0; }
	__sync_fetch_and_add(v, 1);
	return *v == 9 && ctx->gpa != 0;`,
  ),
  loop: program(
    'raw_tp.w/hyperturtle_exit',
    RAW,
    'MAP(table, PERCPU_ARRAY, __u32, __u64, 16)',
    `__u64 sum = 0;
	for (__u32 i = 0; i < 12; i++) {
		__u64 *v = lookup(&table, &i);
		if (v && *v > 3) sum += *v;
		asm volatile("" : "+r"(sum));
	}
	return sum > 40;`,
  ),
  ring: program(
    'raw_tp.w/hyperturtle_sample',
    RAW,
    'struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");\nstatic __attribute__((noinline)) long tell(__u64 a, __u64 b) { __u64 r[2] = { a, b }; return output(&ring, r, 16, 1); }',
    `return tell(now(), 7) == 0 ? 0 : (int)tell(1, 2);`,
  ),
  frame: program(
    'xdp',
    'struct xdp_md *ctx',
    'MAP(seen, PERCPU_ARRAY, __u32, __u64, 1)',
    `__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *n = lookup(&seen, &zero);
	if (data + 34 > end || !n) return 2;
	*n += data[12] == 8 && data[23] == 17;
	return *(__u16 *)(data + 16) == 99 ? 1 : 2;`,
  ),
  segment: program(
    'tc/ingress',
    'struct __sk_buff *ctx',
    'MAP(seen, HASH, __u32, __u64, 8)',
    `__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 key = ctx->len;
	if (data + 14 > end) return -1;
	__u64 *n = lookup(&seen, &key);
	if (n) (*n) += data[0] & 1;
	return ctx->protocol == 8 ? -1 : 2;`,
  ),
};

export interface FuzzSpec {
  objects: Readonly<Record<string, Uint8Array>>;
  mutants: number;
  seed: number;
  /** How many of those that the check admits, and of those that it refuses, go to the verifier as well. */
  admittedToVerify: number;
  refusedToVerify: number;
}

type Counts = Record<string, number>;

export interface FuzzResult {
  mutants: number;
  /** By the first rule, or `admitted`. */
  verdicts: Counts;
  slowestMs: number;
  /** What went to the verifier. */
  verified: number;
  /** The check and the verifier say the same. */
  agreed: Counts;
  /** Admitted, and the verifier says no: by what it says. */
  admittedOnly: Counts;
  /** Refused by this rule, and the verifier has nothing against it. */
  refusedOnly: Counts;
  /** One mutant for each class of the two, as an example. */
  examples: Record<string, string>;
}

/** Throws for a mutant for which the check throws. */
export function fuzzInstructions(spec: FuzzSpec): FuzzResult {
  const result: FuzzResult = {
    mutants: 0,
    verdicts: {},
    slowestMs: 0,
    verified: 0,
    agreed: {},
    admittedOnly: {},
    refusedOnly: {},
    examples: {},
  };
  const names = Object.keys(spec.objects);
  const codes = Object.fromEntries(names.map((n) => [n, codeRanges(spec.objects[n]!)]));
  const next = random(spec.seed ^ 0x5eed);
  const perName = Math.ceil(spec.mutants / names.length);
  const share = (many: number): number => Math.max(1, Math.floor(spec.mutants / Math.max(1, many)));
  for (const name of names)
    for (let n = 0; n < perName; n++) {
      const elf = mutateCode(spec.objects[name]!, codes[name]!, spec.seed + n);
      const what = `${name}, seed ${spec.seed + n}`;
      const rule = ruleOf(elf, what, result);
      // a sample that is spread over all; one in three mutants is admitted, about
      const one = rule === 'admitted' ? share(3 * spec.admittedToVerify) : share(spec.refusedToVerify);
      if (next(one) === 0) verify(elf, rule, what, result);
    }
  return result;
}

function ruleOf(elf: Uint8Array, what: string, result: FuzzResult): string {
  const began = performance.now();
  try {
    const { refusals } = checkObject(elf, { policy: { cpus: 2 } });
    const rule = refusals[0]?.rule ?? 'admitted';
    add(result.verdicts, rule);
    return rule;
  } catch (e) {
    throw new Error(`check threw for ${what}`, { cause: e });
  } finally {
    result.mutants++;
    result.slowestMs = Math.max(result.slowestMs, performance.now() - began);
  }
}

function verify(elf: Uint8Array, rule: string, what: string, result: FuzzResult): void {
  result.verified++;
  const said = verifierSays(elf);
  const admitted = rule === 'admitted';
  if (admitted === (said === undefined)) return add(result.agreed, admitted ? 'admitted' : rule);
  if (said === undefined) add(result.refusedOnly, rule);
  else add(result.admittedOnly, said);
  result.examples[said ?? rule] ??= what;
}

/** Undefined: it takes it. Else a class of what it says. */
function verifierSays(elf: Uint8Array): string | undefined {
  try {
    BpfObject.load({ name: 'mutant', elf, types: packetProgramTypes() }).close();
    return undefined;
  } catch (e) {
    const log = e instanceof HyperturtleError ? textIn(e.detail['log']) : '';
    return classOf(log === '' ? messageOf(e) : log);
  }
}

const CLASSES: readonly (readonly [pattern: RegExp, name: string])[] = [
  [/!read_ok|invalid read from stack|invalid indirect read from stack/, 'reads what was not written'],
  [/invalid access to packet|invalid bpf_context access|off .* is out of bounds/, 'beyond frame or context'],
  [
    /invalid access to map value|invalid mem access|outside of the allowed memory|map_value_or_null|unbounded/,
    'beyond memory, or before the test for null',
  ],
  [
    /invalid (indirect )?(write|access) (to|of) stack|stack frame|invalid stack|register spill/,
    'beyond the stack',
  ],
  [/misaligned/, 'misaligned'],
  [
    /type=.* expected|expected=|arg#\d|R\d+ type|invalid argument|pointer expected/,
    'argument of another type',
  ],
  [
    /arithmetic|prohibited|pointer operation|pointer \w+=|pointer be out of bounds|math between|variable offset/,
    'arithmetic on addresses',
  ],
  [
    /infinite loop|back-edge|too large|complexity|too complex|sequence of/,
    'a loop without an end, or too much to walk',
  ],
  [
    /unreachable insn|jump out of range|last insn|jump into the middle|fall through|no \.text section/,
    'control flow',
  ],
  [/At program exit|return value|R0 (has|is)|Unreleased|reference/, 'what it returns or holds'],
  [
    /invalid shift|div by zero|uses reserved|reserved fields|unknown opcode|invalid (BPF|bpf)_|BPF_\w+ uses/,
    'an operand that is reserved',
  ],
  [/frame pointer is read only|cannot write into|leaks addr|R\d+ leaks/, 'writes what is read-only'],
];

function classOf(log: string): string {
  // the last line that is not about how much it walked says why
  const lines = log
    .split('\n')
    .filter((l) => l !== '' && !/^(processed|verification time|stack depth|peak_states)/.test(l));
  for (const line of lines.slice(-3).reverse())
    for (const [pattern, name] of CLASSES) if (pattern.test(line)) return name;
  return `other: ${(lines.at(-1) ?? '').replace(/\d+/g, 'N').slice(0, 100)}`;
}

const add = (counts: Counts, key: string): void => void (counts[key] = (counts[key] ?? 0) + 1);

const textIn = (log: unknown): string => (typeof log === 'string' ? log : '');
