/** Compiling small eBPF objects for tests, and whether this kernel lets us load any: decided by trying. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const INCLUDE = path.resolve(import.meta.dirname, '../../c/include');

export interface Clang {
  bin: string;
  args: readonly string[];
  env?: NodeJS.ProcessEnv;
}

/** A clang that has the BPF back end: $HYPERTURTLE_CLANG or the PATH's; undefined when there is none. */
export function findClang(): Clang | undefined {
  const candidates = [process.env['HYPERTURTLE_CLANG'], 'clang', 'clang-19', 'clang-16', 'clang-14'];
  for (const bin of candidates) {
    if (bin === undefined) continue;
    const r = spawnSync(bin, ['-target', 'bpf', '-x', 'c', '-c', '-', '-o', '/dev/null'], { input: '' });
    if (r.status === 0) return { bin, args: [] };
  }
  return undefined;
}

/** Compiles C text to an eBPF object. `PRELUDE` has what libbpf's headers would give. */
export function compileBpf(clang: Clang, source: string): Buffer {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'hyperturtle-bpf-'));
  try {
    const out = path.join(dir, 'o.bpf.o');
    const r = spawnSync(
      clang.bin,
      [...clang.args, '-target', 'bpf', '-mcpu=v3', '-O2', '-g', '-Wall', '-Werror', '-I', INCLUDE].concat([
        '-I',
        '/usr/include/x86_64-linux-gnu',
        '-x',
        'c',
        '-c',
        '-',
        '-o',
        out,
      ]),
      { input: PRELUDE + source, encoding: 'utf8', ...(clang.env ? { env: clang.env } : {}) },
    );
    if (r.status !== 0) throw new Error(`clang: ${r.stderr}`);
    return readFileSync(out);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const PRELUDE = `
#include <linux/bpf.h>
#include <hyperturtle/npf.h>
#define SEC(n) __attribute__((section(n), used))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
char LICENSE[] SEC("license") = "GPL";
`;
