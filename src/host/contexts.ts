/** Contexts of test runs as JSON: what a program is given, and what it answers. */
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { HT_NPF_CTX, HT_NPF_LEARN, HT_NPF_MAP, HT_NPF_PASS, npfReasonName } from '../kernel/npf.ts';
import type { NpfContext } from './device.ts';

const ACTIONS: Readonly<Record<number, string>> = {
  [HT_NPF_PASS]: 'PASS',
  [HT_NPF_MAP]: 'MAP',
  [HT_NPF_LEARN]: 'LEARN',
};

/**
 * Contexts in cases: a JSON array of arrays, each of which begins with a fresh arena; or one array of contexts, which
 * is one case.
 */
export function parseCases(text: string): Partial<NpfContext>[][] {
  const list = parseArray(text);
  return list.length > 0 && list.every((c) => Array.isArray(c)) ? list.map(contextsOf) : [contextsOf(list)];
}

/**
 * Objects with fields of struct ht_npf_ctx; values are numbers or text such as "0x200000". What is left out is zero.
 * Throws HT_USAGE naming the context and field.
 */
function contextsOf(list: readonly unknown[]): Partial<NpfContext>[] {
  return list.map((item: unknown, i) => {
    if (typeof item !== 'object' || item === null)
      throw new HyperturtleError('HT_USAGE', `context ${i}: an object expected`);
    return Object.fromEntries(
      Object.entries(item).map(([name, value]) => [name, fieldValue(i, name, value)]),
    );
  });
}

function parseArray(text: string): unknown[] {
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch (e) {
    throw new HyperturtleError('HT_USAGE', `contexts: not JSON: ${messageOf(e)}`);
  }
  if (!Array.isArray(list)) throw new HyperturtleError('HT_USAGE', 'contexts: a JSON array expected');
  return list;
}

function fieldValue(i: number, name: string, value: unknown): number | bigint {
  const field = Object.entries(HT_NPF_CTX.fields).find(([n]) => n === name && !n.startsWith('reserved'))?.[1];
  if (!field) throw new HyperturtleError('HT_USAGE', `context ${i}: there is no field '${name}'`);
  if (
    !(typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) &&
    !(typeof value === 'string' && /^(0x[0-9a-f]+|\d+)$/i.test(value))
  )
    throw new HyperturtleError('HT_USAGE', `context ${i}: ${name}: a number such as "0x200000" expected`);
  const n = BigInt(value);
  if (n >> BigInt(8 * field.size) !== 0n)
    throw new HyperturtleError(
      'HT_USAGE',
      `context ${i}: ${name}: ${value} does not fit ${field.size} bytes`,
    );
  return field.size === 8 ? n : Number(n);
}

/** The program's answer; 64-bit values in hexadecimal. */
export function answerOf(context: NpfContext): Record<string, string | number> {
  const hex = (n: bigint): string => `0x${n.toString(16)}`;
  const action = ACTIONS[context.action] ?? `ACTION_${context.action}`;
  if (context.action === HT_NPF_PASS) return { action, reason: npfReasonName(context.reason) };
  if (context.action !== HT_NPF_MAP) return { action };
  return {
    action,
    template: hex(context.template),
    words_off: hex(context.words_off),
    first_gfn: hex(context.first_gfn),
    count: context.count,
    ...(context.flags === 0 ? {} : { flags: context.flags }),
  };
}
