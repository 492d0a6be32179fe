/**
 * Calls of the kernel that may wait: for a grace period (as long as a vCPU that runs a program is not scheduled), for a lock
 * that others hold. They are made in threads of libuv's pool, so that the event loop goes on. The pool is shared: a lane
 * has one call under way, lanes with calls that wait take turns, and all together leave some threads to others.
 */
import koffi from 'koffi';

/** A function of koffi's with numbers, bytes or text for arguments. Not a variadic one, which cannot be called so. */
export type NativeFunction<A extends unknown[]> = (...args: A) => number;

export interface Outcome {
  result: number;
  /** Error number of this very call; 0 when it did not fail. */
  errno: number;
}

/**
 * Makes a call and settles when it is over; it cannot be given up. What it refers to (descriptors by number, memory)
 * must stay until then: memory that is passed is held here, descriptors are the caller's to keep open.
 */
export type Caller = <A extends unknown[]>(f: NativeFunction<A>, ...args: A) => Promise<Outcome>;

/** On this thread, which waits: for commands and for what belongs to a thread, such as its network namespace. */
export const here: Caller = (f, ...args) => {
  const result = f(...args);
  return Promise.resolve({ result, errno: result < 0 ? koffi.errno() : 0 });
};

const inPool: Caller = (f, ...args) => {
  const native = f as unknown as { async: (...args: unknown[]) => void };
  return new Promise((resolve, reject) => {
    // koffi keeps the arguments, and gives the errno of this call to its callback
    native.async(...args, (error: Error | null, result: number) => {
      const errno = error === null && result < 0 ? koffi.errno() : 0;
      if (error !== null) reject(error);
      else resolve({ result, errno });
    });
  });
};

/** Threads of libuv's pool (deps/uv/src/threadpool.c). */
const POOL = Math.min(1024, Math.max(1, Math.trunc(Number(process.env['UV_THREADPOOL_SIZE'] ?? 4)) || 4));
/** Node's own files, names and compression need some. */
const LEFT_TO_OTHERS = 2;

interface Waiting {
  begin: () => void;
}

/** Threads for calls that wait. */
export class CallThreads {
  readonly #most: number;
  #running = 0;
  /** Lanes that could begin a call now, those that came first at the front. */
  readonly #ready: Waiting[] = [];

  constructor(most: number = Math.max(1, POOL - LEFT_TO_OTHERS)) {
    this.#most = most;
  }

  /** How many calls are under way. */
  get running(): number {
    return this.#running;
  }

  /** A caller whose calls are made one after the other, in their order. */
  lane(): Caller {
    let last: Promise<unknown> = Promise.resolve();
    return (f, ...args) => {
      const mine = last.then(() => this.#run(() => inPool(f, ...args)));
      last = mine.catch(() => {});
      return mine;
    };
  }

  async #run<T>(call: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#most) await new Promise<void>((begin) => this.#ready.push({ begin }));
    else this.#running++;
    try {
      return await call();
    } finally {
      // a thread that is free goes to the next lane without being free in between
      const next = this.#ready.shift();
      if (next) next.begin();
      else this.#running--;
    }
  }
}

/** Call threads of this process. */
export const callThreads = new CallThreads();
