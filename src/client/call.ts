/**
 * Calls of this L1's programs that are linked to the hook `call`: by the channel, when the daemon runs the program, or
 * directly, in one exit of a CPU of this machine.
 */
import { withoutUndefined } from '../core/defined.ts';
import { HyperturtleError } from '../core/errors.ts';
import type { AgentClient } from './session.ts';

export interface ProgramCall {
  object: string;
  /** Needed when several programs of the object are linked. */
  program?: string | undefined;
  /** One of the link's; needed when it has several. */
  number?: number | undefined;
  /** At most 6, of 64 bits; the rest are 0. */
  words?: readonly bigint[];
  /** Default: the client's time for an answer. */
  deadlineMs?: number | undefined;
}

/**
 * By the channel: four words. The host runs the program once and does not give a run up; after HT_TIMEOUT it may have
 * run. Throws HT_NOT_FOUND also when the program does not answer, HT_UNSUPPORTED when it uses the arena.
 */
export async function callProgram(
  { peer, signal, timeoutMs }: AgentClient,
  { object, program, number, words = [], deadlineMs = timeoutMs }: ProgramCall,
): Promise<bigint[]> {
  const params = {
    ...withoutUndefined({ object, program, number }),
    words: words.map((w) => `0x${w.toString(16)}`),
  };
  const { answered, results, reason } = await peer.request('call', params, { signal, timeoutMs: deadlineMs });
  if (!answered)
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `'${object}' does not answer this call: ${reason ?? 'no reason'}`,
    );
  return results.map(BigInt);
}

/** The number of the object's link to the hook `call`, which has one. Throws HT_NOT_FOUND, HT_USAGE. */
export async function callNumberOf(
  { peer, signal, timeoutMs }: AgentClient,
  object: string,
): Promise<number> {
  const { links } = await peer.request('list', {}, { signal, timeoutMs });
  const options = links.find((l) => l.hook === 'call' && l.object === object)?.options;
  const numbers = options !== undefined && 'numbers' in options ? options.numbers : [];
  const [only, other] = numbers;
  if (only !== undefined && other === undefined) return only;
  throw only === undefined
    ? new HyperturtleError('HT_NOT_FOUND', `no program of '${object}' is linked to hook call: say --number`)
    : new HyperturtleError(
        'HT_USAGE',
        `the link of '${object}' has the numbers ${numbers.map((n) => `0x${n.toString(16)}`).join(', ')}: say which by --number`,
      );
}
