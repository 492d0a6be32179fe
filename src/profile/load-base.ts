/**
 * Where a position-independent file was loaded in a process of L2, of which nothing is known but addresses. Each
 * return address lies behind a call; the last 12 bits of an address are the file's. So for one return address there
 * are few places in the file, each of which gives a base, and only under the right one do the others follow calls, too.
 */
import { callEnds, followsCall } from './elf-file.ts';
import type { ElfFile } from './elf-file.ts';

/** Fewer different return addresses in the file prove nothing. */
const WITNESSES = 4;
const SHARE = 0.9;
/** Return addresses that are tried as the first. */
const TRIES = 16;

/** Undefined where no base is clearly better than every other. */
export function loadBase(elf: ElfFile, returns: readonly bigint[]): bigint | undefined {
  const ends = callEnds(elf);
  const limit = elf.code.reduce(
    (m, c) => (c.start + BigInt(c.bytes.length) > m ? c.start + BigInt(c.bytes.length) : m),
    0n,
  );
  const addresses = [...new Set(returns)];
  const tried = new Set<bigint>();
  let best: { base: bigint; hits: number } | undefined;
  let tie = false;
  for (const address of addresses.slice(0, TRIES))
    for (const end of ends.get(Number(address & 0xfffn)) ?? []) {
      const base = address - end;
      if (base < 0n || tried.has(base)) continue;
      tried.add(base);
      const within = addresses.filter((a) => a >= base && a - base < limit);
      const hits = within.filter((a) => followsCall(elf, a - base)).length;
      if (hits < WITNESSES || hits < SHARE * within.length) continue;
      if (!best || hits > best.hits) {
        best = { base, hits };
        tie = false;
      } else if (hits === best.hits) tie = true;
    }
  return tie ? undefined : best?.base;
}
