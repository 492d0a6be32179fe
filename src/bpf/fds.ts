/**
 * One owner for every file descriptor that comes from the kernel by other ways than Node's: the one that holds the
 * OwnedFd closes it. `openFds` tells what is still open, so that a test can show what leaked.
 */
import { closeSync } from 'node:fs';
import { HyperturtleError } from '../core/errors.ts';

const live = new Set<OwnedFd>();

export class OwnedFd implements Disposable {
  /** For messages and leak reports: `vm fd of process 312`. */
  readonly what: string;
  #fd: number;

  /** Takes over `fd`: nobody else may close it. */
  constructor(fd: number, what: string) {
    this.#fd = fd;
    this.what = what;
    live.add(this);
  }

  /** Throws HT_KERNEL once closed: the number may belong to another file by now. */
  get fd(): number {
    if (this.#fd < 0) throw new HyperturtleError('HT_KERNEL', `${this.what}: used after it was closed`);
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /** The descriptor, which is the caller's to close from now on. */
  release(): number {
    const { fd } = this;
    this.#fd = -1;
    live.delete(this);
    return fd;
  }

  /** Closing twice is fine. */
  close(): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    live.delete(this);
    closeSync(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** What is open now, by name. */
export function openFds(): string[] {
  return Array.from(live, (f) => `${f.fd}: ${f.what}`);
}
