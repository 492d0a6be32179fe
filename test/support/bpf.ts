/** Compiling eBPF objects for tests, with the lab's packaged clang when it is there, else with the host's. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { libbpf } from '../../src/bpf/libbpf.ts';
import { SharedArray } from '../../src/bpf/map.ts';
import { isHyperturtleError } from '../../src/core/errors.ts';
import { TRIPLET, toolEnv, toolPath } from '../../src/lab/tools.ts';
import { toolTrees } from './tool-trees.ts';

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
  return refusalOf(() => SharedArray.create('probe', 4096).close());
}

/** Why the library is not there, which the daemon needs to start. */
export function whyNoLibbpf(): string | undefined {
  return refusalOf(libbpf);
}

function refusalOf(work: () => unknown): string | undefined {
  try {
    work();
    return undefined;
  } catch (e) {
    if (isHyperturtleError(e)) return e.message;
    throw e;
  }
}

function packaged(): Clang[] {
  return toolTrees().map((tools) => {
    const include = path.join(tools.root, 'usr/include');
    return {
      bin: toolPath(tools, 'clang'),
      args: ['-nostdlibinc', '-isystem', include, '-isystem', path.join(include, TRIPLET)],
      env: toolEnv(tools),
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
