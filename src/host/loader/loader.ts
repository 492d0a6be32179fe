/**
 * Loads objects in worker processes, so that a crash of libbpf, a verification without end or a worker that eats
 * memory costs one request and nobody else. A warm worker waits; each serves one request and ends.
 */
import type { OwnedFd } from '../../bpf/fds.ts';
import type { MapInfo } from '../../bpf/map-ops.ts';
import type { ProgramInfo } from '../../bpf/object.ts';
import type { HookSpec } from '../hooks.ts';

export interface LoadRequest {
  /** Whose turn it takes: VMs get workers in turn. */
  vm: string;
  /** For messages and the kernel's names. */
  name: string;
  /** Must have passed checkObject. */
  elf: Uint8Array;
  /** Values for `const volatile` variables. */
  constants?: Readonly<Record<string, bigint | number>>;
  /** Existing maps to use in place of the object's own, by map name: `{ arena: array.file }`. Stay the caller's. */
  reuse?: Readonly<Record<string, OwnedFd>>;
  signal?: AbortSignal | undefined;
  /** Waiting for a worker and loading together. Default 30000. */
  timeoutMs?: number;
}

export interface LoadedProgram {
  name: string;
  section: string;
  hook: HookSpec['name'];
  file: OwnedFd;
  info: ProgramInfo;
}

export interface LoadedMap {
  /** As in the object (the kernel's is cut at 15 characters). */
  name: string;
  file: OwnedFd;
  info: MapInfo;
  /** Kernel memory that it takes (fdinfo's memlock). */
  bytes: number;
  /** It is one of `reuse`. */
  reused: boolean;
}

/** Owns the descriptors of its programs and maps. */
export interface LoadedObject extends Disposable {
  name: string;
  programs: LoadedProgram[];
  maps: LoadedMap[];
  /** Closes all descriptors; closing twice is fine. */
  close(): void;
}

export interface LoaderOptions {
  /** Most workers at once. Default 2. */
  workers?: number;
  /** Most memory that a worker may allocate, in MiB. Default 1024. */
  workerMemoryMib?: number;
  /** Most requests that wait. Default 64. */
  queue?: number;
  hooks?: readonly HookSpec[];
  /** The worker's compiled program; tests run from sources and must say. */
  workerPath?: string;
}

export interface LoaderStatus {
  /** Process ids of all workers, warm ones included. */
  pids: number[];
  busy: number;
  waiting: number;
  /** Since start: requests served, workers killed for their deadline, workers that ended by themselves. */
  loads: number;
  killed: number;
  crashed: number;
}

export class Loader implements AsyncDisposable {
  constructor(options: LoaderOptions = {}) {
    void options;
  }

  /**
   * Throws HT_VERIFIER_REJECTED (detail.log: tail of the verifier's log), HT_BPF, HT_REFUSED (verified instructions
   * above the hook's budget), HT_TIMEOUT, HT_BUSY (queue full), HT_CRASHED (the worker ended), or the signal's reason.
   */
  load(request: LoadRequest): Promise<LoadedObject> {
    void request;
    return Promise.reject(new Error('not implemented yet'));
  }

  status(): LoaderStatus {
    throw new Error('not implemented yet');
  }

  /** Ends all workers; requests under way fail with HT_INTERRUPTED. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
