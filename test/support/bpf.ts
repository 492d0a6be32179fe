/** Compiling eBPF objects for tests, with the lab's packaged clang when it is there, else with the host's. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { SharedArray } from '../../src/bpf/map.ts';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { TRIPLET, toolEnv } from '../../src/lab/tools.ts';
import { cacheRoot } from '../../src/lab/xdg.ts';

const INCLUDE = path.resolve(import.meta.dirname, '../../c/include');

export interface Clang {
  bin: string;
  /** Where the kernel's and libbpf's headers are. */
  args: readonly string[];
  env: NodeJS.ProcessEnv;
}

/** The newest tools tree of the lab's cache, $HYPERTURTLE_CLANG, or the PATH's clang; undefined: none works. */
export function findClang(): Clang | undefined {
  const host = (bin: string): Clang => ({ bin, args: [`-I/usr/include/${TRIPLET}`], env: process.env });
  const own = process.env['HYPERTURTLE_CLANG'];
  const candidates = [...(own ? [host(own)] : []), ...packaged(), host('clang')];
  return candidates.find(
    (c) =>
      spawnSync(c.bin, ['-target', 'bpf', '-x', 'c', '-c', '-', '-o', '/dev/null'], { input: '', env: c.env })
        .status === 0,
  );
}

/** Why tests with real programs and maps cannot run here; undefined: they can. */
export function whyNoBpf(clang: Clang | undefined): string | undefined {
  if (!clang) return 'no clang with a BPF back end: run the lab once, or set HYPERTURTLE_CLANG';
  return whyNoMaps();
}

/** The same for tests that need maps only. */
export function whyNoMaps(): string | undefined {
  try {
    SharedArray.create('probe', 4096).close();
    return undefined;
  } catch (e) {
    if (isHyperturtleError(e)) return e.message;
    throw e;
  }
}

function packaged(): Clang[] {
  const trees = path.join(cacheRoot(), 'trees');
  let names: string[];
  try {
    names = readdirSync(trees).filter((n) => n.startsWith('tools-'));
  } catch {
    return [];
  }
  const dirs = names.map((n) => path.join(trees, n));
  dirs.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  return dirs.map((dir) => {
    const root = path.join(dir, 'root');
    const include = path.join(root, 'usr/include');
    return {
      bin: path.join(root, 'usr/bin/clang'),
      args: ['-nostdlibinc', '-isystem', include, '-isystem', path.join(include, TRIPLET)],
      env: toolEnv({ root, libc: path.join(dir, 'libc'), key: '' }),
    };
  });
}

/** Compiles C text; it sees what libbpf's headers would define without them. */
export function compileBpf(clang: Clang, source: string): Buffer {
  return compile(clang, ['-x', 'c', '-'], PRELUDE + source);
}

/** Compiles a file of c/bpf. Needs libbpf's headers. */
export function compileBpfFile(clang: Clang, file: string): Buffer {
  return compile(clang, [file], '');
}

function compile(clang: Clang, input: readonly string[], stdin: string): Buffer {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'hyperturtle-bpf-'));
  try {
    const out = path.join(dir, 'o.bpf.o');
    const flags = ['-target', 'bpf', '-mcpu=v3', '-O2', '-g', '-Wall', '-Werror', '-I', INCLUDE];
    const r = spawnSync(clang.bin, [...flags, ...clang.args, '-c', ...input, '-o', out], {
      input: stdin,
      encoding: 'utf8',
      env: clang.env,
    });
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
static void *(*bpf_map_lookup_elem)(void *map, const void *key) __attribute__((unused)) = (void *)1;
char LICENSE[] SEC("license") = "GPL";
`;
