/** Running a loaded tc program (BPF_PROG_TEST_RUN), for tests of what programs do to maps. */
import { runProgram } from '../../src/bpf/test-run.ts';

/** Runs a SEC("tc") program on a packet of zeros; returns what it returned. */
export const runTc = (fd: number, repeat = 1): number => runProgram(fd, new Uint8Array(64), repeat).result;
