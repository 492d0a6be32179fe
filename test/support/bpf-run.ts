/** Running a loaded tc program once (BPF_PROG_TEST_RUN), for tests of what programs do to maps. */
import koffi from 'koffi';

const testRun = koffi.load('libbpf.so.1').func('int bpf_prog_test_run_opts(int fd, _Inout_ void *opts)') as (
  fd: number,
  opts: Uint8Array,
) => number;

/** Runs a SEC("tc") program on a packet of zeros; returns what it returned. */
export function runTc(fd: number, repeat = 1): number {
  const packet = koffi.alloc('uint8_t', 64) as bigint;
  try {
    // struct bpf_test_run_opts: sz, data_in, data_out, data_size_in/out, ctx_in, ctx_out, ctx_size_in/out, retval, repeat
    const opts = new Uint8Array(80);
    const view = new DataView(opts.buffer);
    view.setBigUint64(0, 80n, true);
    view.setBigUint64(8, packet, true);
    view.setUint32(24, 64, true);
    view.setUint32(60, repeat, true);
    const r = testRun(fd, opts);
    if (r < 0) throw new Error(`BPF_PROG_TEST_RUN: ${r}`);
    return view.getUint32(56, true);
  } finally {
    koffi.free(packet);
  }
}
