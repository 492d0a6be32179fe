/** Names of C++ and Rust functions as people write them, by binutils' c++filt, as perf has them. */
import { exec } from '../core/exec.ts';
import { messageOf } from '../core/errors.ts';
import type { SymbolTable } from './symbol-table.ts';

const TIMEOUT_MS = 30_000;
const MANGLED = /^_(Z|R)\w/;
/** Rust's hash at the end of a name, which perf and pprof leave out. */
const HASHED = /17h[0-9a-f]{16}E/;
const HASH = /::h[0-9a-f]{16}$/;

/** Other names for mangled ones; `problem`: why there are none. Tables without mangled names start no program. */
export async function demangled(
  tables: readonly SymbolTable[],
): Promise<{ names: ReadonlyMap<string, string>; problem?: string }> {
  const mangled = [...new Set(tables.flatMap((t) => t.names()).filter((n) => MANGLED.test(n)))];
  if (mangled.length === 0) return { names: new Map() };
  try {
    const r = await exec('c++filt', [], { input: `${mangled.join('\n')}\n`, timeoutMs: TIMEOUT_MS });
    const plain = r.stdout.toString('utf8').split('\n');
    const shown = (name: string, plainName: string): string =>
      HASHED.test(name) ? plainName.replace(HASH, '') : plainName;
    return { names: new Map(mangled.map((name, i) => [name, shown(name, plain[i] || name)])) };
  } catch (e) {
    return { names: new Map(), problem: messageOf(e) };
  }
}
