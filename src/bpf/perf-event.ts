/**
 * perf events of this kernel, as `perf record` opens them: what an L1 uses when it profiles its nested guests by itself,
 * for comparison.
 */
import koffi from 'koffi';
import { OwnedFd } from './fds.ts';
import { SharedMemory, kernelError } from './sys.ts';

const libc = koffi.load('libc.so.6');
const cPerfEventOpen = libc.func(
  'long syscall(long number, const void *attr, long pid, long cpu, long group, unsigned long flags)',
) as (number: number, attr: Uint8Array, pid: number, cpu: number, group: number, flags: number) => number;

const SYS_PERF_EVENT_OPEN = process.arch === 'arm64' ? 241 : 298;
const PERF_TYPE_SOFTWARE = 1;
const PERF_COUNT_SW_CPU_CLOCK = 0n;
/** IP, TID, TIME and PERIOD: what `perf record` takes by default. */
const SAMPLE_TYPE = 1n | 2n | 4n | 256n;
const ATTR_FREQ = 1n << 10n;
const ATTR_BYTES = 64;
const PERF_FLAG_FD_CLOEXEC = 8;
const PAGE = 4096;
/** Pages for records; a power of two, as perf has it. */
const BUFFER_PAGES = 256;
const DATA_HEAD = 1024;
const DATA_TAIL = 1032;
const PERF_RECORD_LOST = 2;
const PERF_RECORD_SAMPLE = 9;
/** Bits of a record's misc that say whose code was interrupted: 4 a guest's kernel, 5 its user space. */
const CPUMODE = 7;

export interface SampleCount {
  /** Samples of a guest of this kernel. */
  guest: number;
  others: number;
  lost: number;
}

/** Samples of one thread by its CPU clock. */
export class CpuClockSampler implements Disposable {
  readonly #file: OwnedFd;
  readonly #memory: SharedMemory;
  readonly count: SampleCount = { guest: 0, others: 0, lost: 0 };

  /** Begins at once. Throws HT_KERNEL. */
  constructor(thread: number, hz: number) {
    const attr = new Uint8Array(ATTR_BYTES);
    const view = new DataView(attr.buffer);
    view.setUint32(0, PERF_TYPE_SOFTWARE, true);
    view.setUint32(4, ATTR_BYTES, true);
    view.setBigUint64(8, PERF_COUNT_SW_CPU_CLOCK, true);
    view.setBigUint64(16, BigInt(hz), true);
    view.setBigUint64(24, SAMPLE_TYPE, true);
    view.setBigUint64(40, ATTR_FREQ, true);
    // SAFETY: the kernel reads as many bytes as the attribute's own size says, which is the array's.
    const fd = cPerfEventOpen(SYS_PERF_EVENT_OPEN, attr, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0) throw kernelError(`perf_event_open of thread ${thread}`, koffi.errno());
    this.#file = new OwnedFd(fd, `perf event of thread ${thread}`);
    try {
      this.#memory = new SharedMemory(this.#file, (1 + BUFFER_PAGES) * PAGE);
    } catch (e) {
      this.#file.close();
      throw e;
    }
  }

  /** Takes what is in the buffer. */
  drain(): void {
    const head = this.#memory.load(DATA_HEAD);
    let tail = this.#memory.load(DATA_TAIL);
    const bytes = BigInt(BUFFER_PAGES * PAGE);
    while (tail < head) {
      // a record never crosses the end but as a whole word
      const header = this.#memory.load(PAGE + Number(tail % bytes));
      const type = Number(header & 0xffff_ffffn);
      const misc = Number((header >> 32n) & 0xffffn);
      const size = header >> 48n;
      if (size === 0n) break;
      if (type === PERF_RECORD_SAMPLE) this.count[(misc & CPUMODE) >= 4 ? 'guest' : 'others']++;
      if (type === PERF_RECORD_LOST)
        this.count.lost += Number(this.#memory.load(PAGE + Number((tail + 16n) % bytes)));
      tail += size;
    }
    this.#memory.store(DATA_TAIL, tail);
  }

  close(): void {
    this.#memory.close();
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
