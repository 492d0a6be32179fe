/** BPF_PROG_TEST_RUN: a network program on a packet, without a device. */
import koffi from 'koffi';
import { errnoName } from '../kernel/errno.ts';
import { libbpf } from './libbpf.ts';
import { kernelError } from './sys.ts';

export interface TestRun {
  /** What the program returned; TC_ACT_UNSPEC is -1. */
  result: number;
  /** Mean of one run, whole nanoseconds. */
  nanoseconds: number;
}

/** How often a call is made again: more signals than that are meant to end it. */
const MOST_SIGNALS = 20;

/** 0, or what went wrong. */
function testRun(fd: number, opts: Uint8Array): number {
  const r = libbpf().test_run(fd, opts);
  if (r >= 0) return 0;
  return r < -1 ? -r : koffi.errno();
}

/** Runs it `repeat` times on the frame. `context` is a struct __sk_buff (tc only). Throws HT_KERNEL. */
export function runProgram(fd: number, frame: Uint8Array, repeat = 1, context?: Uint8Array): TestRun {
  const memory = koffi.alloc('uint8_t', frame.length + (context?.length ?? 0)) as bigint;
  try {
    // SAFETY: as many bytes as were allocated; the kernel reads data_size_in and ctx_size_in of them and writes none,
    // as there is no data_out and no ctx_out.
    const bytes = new Uint8Array(koffi.view(memory, frame.length + (context?.length ?? 0)));
    bytes.set(frame);
    if (context) bytes.set(context, frame.length);
    // struct bpf_test_run_opts of libbpf 1.x
    const opts = new Uint8Array(80);
    const view = new DataView(opts.buffer);
    view.setBigUint64(0, 80n, true);
    view.setBigUint64(8, memory, true);
    view.setUint32(24, frame.length, true);
    if (context) {
      view.setBigUint64(32, memory + BigInt(frame.length), true);
      view.setUint32(48, context.length, true);
    }
    view.setUint32(60, repeat, true);
    let errno = testRun(fd, opts);
    // a signal ends it between two runs: the mean is that of one whole call
    for (let again = 0; again < MOST_SIGNALS && errnoName(errno) === 'EINTR'; again++)
      errno = testRun(fd, opts);
    if (errno !== 0) throw kernelError('BPF_PROG_TEST_RUN', errno);
    return { result: view.getInt32(56, true), nanoseconds: view.getUint32(64, true) };
  } finally {
    koffi.free(memory);
  }
}
