/**
 * Checks objects in a thread of its own: a hostile one can take half a second, and the daemon's thread belongs to all
 * VMs. The thread runs our own code without FFI; a deadline and a limit of its heap bound it, and when it ends that
 * one check fails and the next gets a new thread. One check at a time, in the order of asking: each VM has at most one
 * under way (VmService), so nobody waits for more than one check of each other VM.
 */
import { Worker } from 'node:worker_threads';
import { programFile } from '../../core/code-file.ts';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { Turns } from '../../core/turns.ts';
import { withDeadline } from '../../core/wait.ts';
import type { CheckOptions } from '../admission/check.ts';
import type { Verdict } from '../admission/verdict.ts';

export interface CheckRequest {
  elf: Uint8Array;
  options: CheckOptions;
}
export type CheckAnswer = { verdict: Verdict } | { bug: string };

export interface CheckerOptions {
  /** For one object, once it is its turn. */
  timeoutMs: number;
  /** The thread's compiled program; tests run from sources and must say. */
  threadPath?: string | undefined;
  /** Most that its heap may have. Default 256; an object of 3 MiB needs some 50. */
  heapMib?: number;
}

export class Checker implements AsyncDisposable {
  readonly #options: CheckerOptions;
  readonly #turns = new Turns();
  readonly #path: string;
  #thread: Worker | undefined;
  #fail: ((e: Error) => void) | undefined;
  #closed = false;

  /** Starts the thread at once. */
  constructor(options: CheckerOptions) {
    this.#options = options;
    this.#path = options.threadPath ?? programFile('host/daemon/check-thread');
    this.#thread = this.#start();
  }

  /**
   * As checkObject. `signal` ends the waiting, not a check that has begun: its turn would be used up all the same.
   * Throws HT_TIMEOUT, HT_CRASHED (the thread ended), HT_INTERRUPTED (closed), or the signal's reason.
   */
  check(elf: Uint8Array, options: CheckOptions, signal?: AbortSignal): Promise<Verdict> {
    return this.#turns.take(() => this.#ask(elf, options), signal);
  }

  /** A check under way fails with HT_INTERRUPTED. Returns when the thread is gone. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#end(new HyperturtleError('HT_INTERRUPTED', 'the daemon is being stopped'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #ask(elf: Uint8Array, options: CheckOptions): Promise<Verdict> {
    if (this.#closed) throw new HyperturtleError('HT_INTERRUPTED', 'the daemon is being stopped');
    const thread = (this.#thread ??= this.#start());
    const answered = new Promise<CheckAnswer>((resolve, reject) => {
      this.#fail = reject;
      thread.once('message', resolve);
    });
    let answer: CheckAnswer;
    try {
      thread.postMessage({ elf: new Uint8Array(elf), options } satisfies CheckRequest);
      answer = await withDeadline('checking the object', answered, this.#options.timeoutMs);
    } catch (e) {
      await this.#end(e);
      throw e;
    } finally {
      this.#fail = undefined;
    }
    if ('verdict' in answer) return answer.verdict;
    throw new Error(`checking an object failed in its thread: ${answer.bug}`);
  }

  #start(): Worker {
    const thread = new Worker(this.#path, {
      env: {},
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: this.#options.heapMib ?? 256 },
    });
    const gone = (how: string): void => {
      if (this.#thread !== thread) return;
      this.#thread = undefined;
      this.#fail?.(new HyperturtleError('HT_CRASHED', `the thread that checks objects ${how}`));
    };
    thread.on('error', (e) => gone(`failed: ${messageOf(e)}`));
    thread.on('exit', (status) => gone(`ended with status ${status}`));
    thread.unref();
    return thread;
  }

  async #end(why: unknown): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    if (why instanceof Error) this.#fail?.(why);
    await thread?.terminate();
  }
}
