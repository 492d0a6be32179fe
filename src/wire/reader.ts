/**
 * Reads lines from a stream only while nothing speaks against it: rate of lines and bytes, and what the owner says.
 * What is not read stays in the stream's own bounded buffer, and then with the other side.
 */
import type { Readable } from 'node:stream';
import { TokenBucket } from './bucket.ts';
import type { RpcLimits } from './limits.ts';
import { LineReader } from './lines.ts';
import type { Line } from './lines.ts';
import type { Pause, RpcCounters } from './peer-options.ts';

/** Lines taken in one turn of the event loop, before others have theirs. */
const LINES_PER_TURN = 64;
/**
 * Time for which one turn reads on: a line may be a request that takes a while to check and begin. One is always
 * taken.
 */
const TURN_MS = 1;

/** What a line that is thrown away counts beside its bytes: 16,384 of them a second at 16 MiB/s. */
const NOISE_BYTES = 1024;

export interface ReaderOwner {
  /** Asked before each line. When it names an obstacle, the owner calls `resume()` once that is gone. */
  obstacle(): Exclude<Pause, 'pausedForRate'> | undefined;
  /** What became of it. What may be answered counts as a request, whether it is one or not: an answer costs more than its line. */
  onLine(line: Line): 'thrown away' | 'taken';
}

export class Reader {
  readonly #stream: Readable;
  readonly #owner: ReaderOwner;
  readonly #counters: RpcCounters;
  readonly #lines: LineReader;
  readonly #lineBucket: TokenBucket;
  readonly #byteBucket: TokenBucket;
  readonly #maxFrameBytes: number;
  #reading = false;
  #stopped = false;
  /** Set while a timer or an immediate will go on reading. */
  #wake: (() => void) | undefined;
  #paused: Pause | undefined;

  constructor(stream: Readable, limits: RpcLimits, counters: RpcCounters, owner: ReaderOwner) {
    this.#stream = stream;
    this.#owner = owner;
    this.#counters = counters;
    this.#maxFrameBytes = limits.maxFrameBytes;
    this.#lines = new LineReader(limits.maxFrameBytes);
    this.#lineBucket = new TokenBucket(limits.requestsPerSecond, burstOf(limits));
    this.#byteBucket = new TokenBucket(limits.bytesPerSecond, 2 * limits.maxFrameBytes);
    stream.on('readable', () => this.resume());
  }

  setRates(limits: RpcLimits): void {
    this.#lineBucket.setRate(limits.requestsPerSecond, burstOf(limits));
    this.#byteBucket.setRate(limits.bytesPerSecond, 2 * this.#maxFrameBytes);
    this.#wakeUp();
  }

  stop(): void {
    this.#stopped = true;
    this.#wake?.();
    this.#wake = undefined;
  }

  /** Reads on, as far as that is allowed. Called whenever that may have changed. */
  resume(): void {
    if (this.#reading) return;
    this.#reading = true;
    try {
      const begun = performance.now();
      for (let budget = LINES_PER_TURN; this.#mayRead(budget); ) {
        const line = this.#lines.next();
        if (line !== undefined) {
          budget--;
          this.#counters.linesRead++;
          // noise is thrown away as fast as bytes may come: what is behind it is somebody's first message
          if (this.#owner.onLine(line) === 'thrown away') this.#byteBucket.take(NOISE_BYTES);
          else this.#lineBucket.take(1);
          if (performance.now() - begun > TURN_MS) budget = 0;
          continue;
        }
        const chunk = this.#stream.read() as Buffer | null;
        if (chunk === null) return;
        this.#counters.bytesRead += chunk.length;
        this.#byteBucket.take(chunk.length);
        this.#lines.push(chunk);
      }
    } finally {
      this.#reading = false;
    }
  }

  /** False: something will call `resume()` again. */
  #mayRead(budget: number): boolean {
    if (this.#stopped || this.#wake !== undefined) return false;
    const obstacle = this.#owner.obstacle();
    if (obstacle !== undefined) return this.#pause(obstacle);
    const waitMs = Math.max(this.#lineBucket.waitMs(), this.#byteBucket.waitMs());
    if (waitMs > 0) {
      const timer = setTimeout(() => this.#wakeUp(), waitMs);
      this.#wake = () => clearTimeout(timer);
      return this.#pause('pausedForRate');
    }
    this.#paused = undefined;
    if (budget > 0) return true;
    const immediate = setImmediate(() => this.#wakeUp());
    this.#wake = () => clearImmediate(immediate);
    return false;
  }

  #pause(why: Pause): false {
    if (this.#paused !== why) this.#counters[why]++;
    this.#paused = why;
    return false;
  }

  #wakeUp(): void {
    this.#wake?.();
    this.#wake = undefined;
    this.resume();
  }
}

function burstOf(limits: RpcLimits): number {
  return Math.max(16, limits.requestsPerSecond / 4);
}
