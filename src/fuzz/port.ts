/**
 * L1's end of the control channel, held open by a shell in L1, so that anything at all can be written into it. What
 * comes back is kept in a file there.
 */
import { randomUUID } from 'node:crypto';
import { AGENT_PORT } from '../core/default-paths.ts';
import { HyperturtleError, isHyperturtleError } from '../core/errors.ts';
import { waitFor } from '../core/wait.ts';
import { runScript } from '../lab/levels.ts';
import type { Level } from '../lab/levels.ts';

const LINES = '/run/fuzz-lines';
const BATCH = '/run/fuzz-batch';
const ANSWERS = '/run/fuzz-answers';
/** The daemon answers in seconds under emulation; loading an object keeps the verifier busy for longer. */
const ANSWER_MS = 300_000;

export class RawPort {
  readonly #l1: Level;
  #calls = 0;

  private constructor(l1: Level) {
    this.#l1 = l1;
  }

  static async open(l1: Level, signal?: AbortSignal): Promise<RawPort> {
    // append mode: the file can be emptied under the reader
    await l1.spawn(
      [
        'sh',
        '-c',
        `rm -f ${LINES}; mkfifo ${LINES}; exec 3<>${AGENT_PORT}; cat <&3 >>${ANSWERS} & exec 4<>${LINES}; cat <&4 >&3`,
      ],
      { signal },
    );
    const port = new RawPort(l1);
    await runScript(l1, `for i in 1 2 3 4 5 6 7 8 9; do [ -p ${LINES} ] && exit 0; sleep 1; done; exit 1`, {
      signal,
    });
    return port;
  }

  /** Writes bytes as they are. What the daemon does not read within `timeoutMs` is lost. */
  async write(bytes: Buffer, timeoutMs: number, signal?: AbortSignal): Promise<void> {
    await this.#l1.writeFile(BATCH, bytes, { signal });
    const s = Math.ceil(timeoutMs / 1000);
    await runScript(this.#l1, `: >${ANSWERS}; timeout ${s} cat ${BATCH} >${LINES} || :`, {
      timeoutMs: timeoutMs + 60_000,
      signal,
    });
  }

  /** One request that is meant. Throws HT_COMMAND_FAILED with the error that came back. */
  async call(method: string, params: unknown, signal?: AbortSignal): Promise<unknown> {
    const id = `call-${this.#calls++}-${randomUUID().slice(0, 8)}`;
    // an empty line before it: whatever was written last may have no end
    const text = `\n${JSON.stringify({ jsonrpc: '2.0', id, method, params })}\n`;
    await this.write(Buffer.from(text), ANSWER_MS, signal);
    return this.#answer(id, method, signal);
  }

  /** Loads an object that lies in L1. */
  async load(
    name: string,
    file: string,
    constants: Record<string, string>,
    signal?: AbortSignal,
  ): Promise<void> {
    const id = `load-${this.#calls++}-${randomUUID().slice(0, 8)}`;
    const [before, after] = JSON.stringify({
      jsonrpc: '2.0',
      id,
      method: 'load',
      params: { name, elf: '@', constants },
    }).split('"@"');
    await runScript(
      this.#l1,
      `: >${ANSWERS}; { printf '\n%s"' '${before}'; base64 -w 0 ${file}; printf '"%s\n' '${after}'; } >${LINES}`,
      { timeoutMs: ANSWER_MS, signal },
    );
    await this.#answer(id, `load ${name}`, signal);
  }

  async #answer(id: string, method: string, signal?: AbortSignal): Promise<unknown> {
    const answer = await waitFor(
      `answer to ${method}`,
      async () => {
        const found = await this.#l1.exec(['grep', '-m', '1', `"id":"${id}"`, ANSWERS], { signal });
        try {
          return found.status === 0
            ? (JSON.parse(found.stdout.toString('utf8')) as { result?: unknown; error?: unknown })
            : undefined;
        } catch {
          return undefined; // half of it has come
        }
      },
      { timeoutMs: ANSWER_MS, intervalMs: 500, signal },
    );
    if (answer.error !== undefined)
      throw new HyperturtleError(
        'HT_COMMAND_FAILED',
        `${method}: ${JSON.stringify(answer.error).slice(0, 400)}`,
      );
    return answer.result;
  }

  /** Again after the daemon has closed the session. */
  async hello(signal?: AbortSignal): Promise<void> {
    const bootId = (await runScript(this.#l1, 'cat /proc/sys/kernel/random/boot_id', { signal })).trim();
    const agent = { version: 'fuzz', kernel: 'fuzz' };
    const nonce = randomUUID().slice(0, 16);
    await waitFor(
      'hello',
      async () => {
        try {
          return (
            (await this.call('hello', { protocol: { min: 1, max: 1 }, agent, bootId, nonce }, signal)) ?? {}
          );
        } catch (e) {
          if (isHyperturtleError(e, 'HT_COMMAND_FAILED')) return undefined;
          throw e;
        }
      },
      { timeoutMs: ANSWER_MS, intervalMs: 1000, signal },
    );
  }
}
