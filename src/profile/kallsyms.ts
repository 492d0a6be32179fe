/**
 * Symbols of a Linux kernel: from the text of /proc/kallsyms or System.map, or out of a kernel image itself, which
 * carries the table for /proc/kallsyms with it even when it is stripped (CONFIG_KALLSYMS, as scripts/kallsyms.c writes it:
 * read in 6.1 and 6.12).
 */
import { HyperturtleError } from '../core/errors.ts';
import { SymbolTable } from './symbol-table.ts';
import type { SymbolInfo } from './symbol-table.ts';

/** Lines of `address type name [module]`; addresses of functions only. Throws HT_UNSUPPORTED when they are hidden. */
export function parseKallsyms(text: string, what: string): SymbolTable {
  const symbols: SymbolInfo[] = [];
  let hidden = 0;
  for (const line of text.split('\n')) {
    const m = /^([0-9a-f]{8,16}) ([tTwW]) (\S+)(?:\s+\[(\S+)\])?$/.exec(line);
    if (!m) continue;
    const address = BigInt(`0x${m[1]!}`);
    if (address === 0n) hidden++;
    else if (m[3] === '_etext') symbols.push(endOfCode(address));
    else symbols.push({ address, name: m[4] === undefined ? m[3]! : `${m[3]!} [${m[4]}]`, size: 0n });
  }
  if (symbols.length > 0) return new SymbolTable(symbols);
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    hidden > 0
      ? `${what}: all addresses are 0: read it as root, with kernel.kptr_restrict=0`
      : `${what}: no symbols; lines such as 'ffffffff81000000 T _text' expected`,
  );
}

/** What lies behind the kernel's code belongs to no function. */
const endOfCode = (address: bigint): SymbolInfo => ({ address, name: '', size: 1n });

/** `0\0` to `9\0`: digits always stand for themselves in the table of tokens. */
const DIGITS = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1');
const TOKENS = 256;
const PER_MARKER = 256;
const INDEX_BYTES = 2 * TOKENS;

/** From an uncompressed kernel image. Throws HT_UNSUPPORTED when it has no such table. */
export function kallsymsOfImage(image: Buffer, what: string): SymbolTable {
  for (let at = image.indexOf(DIGITS); at >= 0; at = image.indexOf(DIGITS, at + 1)) {
    const table = tablesAround(image, at);
    if (table) return table;
  }
  throw new HyperturtleError(
    'HT_UNSUPPORTED',
    `${what}: no table of symbols in this kernel image: give its System.map, /proc/kallsyms or vmlinux with --kernel`,
  );
}

function tablesAround(image: Buffer, digits: number): SymbolTable | undefined {
  const found = tokenTable(image, digits);
  if (!found) return undefined;
  const { tokens, start, indexEnd } = found;
  for (const markers of markerTables(image, start)) {
    const names = symbolNames(image, markers, tokens);
    if (!names) continue;
    const addresses = addressesOf(image, names, indexEnd);
    if (!addresses) continue;
    const symbols = names.names.flatMap((name, i): SymbolInfo[] => {
      const address = addresses[i]!;
      if (name.slice(1) === '_etext') return [endOfCode(address)];
      return 'tTwW'.includes(name[0]!) && address >= 0xffff_8000_0000_0000n
        ? [{ address, name: name.slice(1), size: 0n }]
        : [];
    });
    return new SymbolTable(symbols);
  }
  return undefined;
}

interface Tokens {
  tokens: string[];
  start: number;
  indexEnd: number;
}

/** 256 texts ended by NULs; behind them, aligned, the offsets at which they begin. */
function tokenTable(image: Buffer, digits: number): Tokens | undefined {
  // the token of '0' is the 48th: 48 texts lie before
  let start = digits;
  for (let n = 0; n < 48; n++) {
    start--;
    while (start > 0 && image[start - 1] !== 0) start--;
    if (digits - start > 48 * 64) return undefined;
  }
  // the first text has no NUL before it but padding or the end of the markers
  for (let begin = start; begin > start - 64 && begin >= 0; begin--) {
    const tokens: string[] = [];
    const offsets: number[] = [];
    let at = begin;
    while (tokens.length < TOKENS) {
      const end = image.indexOf(0, at);
      if (end < 0 || end - at > 128) break;
      offsets.push(at - begin);
      tokens.push(image.toString('latin1', at, end));
      at = end + 1;
    }
    if (tokens.length < TOKENS) continue;
    const index = align(at, 8);
    if (index + INDEX_BYTES > image.length) continue;
    if (offsets.every((o, i) => image.readUInt16LE(index + 2 * i) === o))
      return { tokens, start: begin, indexEnd: index + INDEX_BYTES };
  }
  return undefined;
}

const align = (at: number, to: number): number => Math.ceil(at / to) * to;

interface Markers {
  start: number;
  values: number[];
}

/** A name takes 2 to 512 bytes, so markers grow by as much for each 256 of them. */
const MARKER_STEP = { min: 2 * PER_MARKER, max: 512 * PER_MARKER };
/** The names' sequence by hash lies between in some kernels: 3 bytes for each of some hundred thousand. */
const MARKERS_WITHIN = 4 << 20;

/** Offsets of every 256th name, 32 bits each, from 0 on, somewhere before the tokens. */
function* markerTables(image: Buffer, tokens: number): Generator<Markers> {
  const grows = (was: number, is: number): boolean =>
    is - was >= MARKER_STEP.min && is - was <= MARKER_STEP.max;
  for (let start = (tokens & ~3) - 36; start > tokens - MARKERS_WITHIN && start >= 0; start -= 4) {
    if (image.readUInt32LE(start) !== 0) continue;
    const values = [0];
    for (let at = start + 4; at + 4 <= tokens; at += 4) {
      const value = image.readUInt32LE(at);
      if (!grows(values.at(-1)!, value)) break;
      values.push(value);
    }
    // what follows may look like one more
    for (let n = values.length; n > 8 && n > values.length - 3; n--)
      yield { start, values: values.slice(0, n) };
  }
}

interface Names {
  /** With their type as the first letter. */
  names: string[];
  /** Place of the word that says how many names there are; it lies before them. */
  countAt: number;
}

function symbolNames(
  image: Buffer,
  { start, values }: Markers,
  tokens: readonly string[],
): Names | undefined {
  const most = PER_MARKER * values.length;
  const least = most - PER_MARKER;
  const last = start - values.at(-1)!;
  // at most 256 names of at most 512 bytes lie behind the last marker
  for (let at = (last & ~3) - 4; at > last - PER_MARKER * 512 && at >= 0; at -= 4) {
    const n = image.readUInt32LE(at);
    if (n <= least || n > most) continue;
    for (const from of [at + 8, at + 4]) {
      const names = readNames(image, from, n, values, tokens);
      if (names) return { names, countAt: at };
    }
  }
  return undefined;
}

function readNames(
  image: Buffer,
  from: number,
  count: number,
  markers: readonly number[],
  tokens: readonly string[],
): string[] | undefined {
  const names: string[] = [];
  let at = from;
  for (let i = 0; i < count; i++) {
    if (i % PER_MARKER === 0 && markers[i / PER_MARKER] !== at - from) return undefined;
    let bytes = image[at++] ?? 0;
    // long names have a second byte of length, since 6.1
    if (bytes & 0x80) bytes = (bytes & 0x7f) | ((image[at++] ?? 0) << 7);
    if (bytes === 0 || at + bytes > image.length) return undefined;
    let name = '';
    for (let j = 0; j < bytes; j++) name += tokens[image[at + j]!]!;
    names.push(name);
    at += bytes;
  }
  return names;
}

/**
 * 32-bit offsets and the base that they are relative to: before the count up to 6.3 or so, behind the index of
 * tokens since. Negative ones count from the base downwards in a kernel whose per-CPU symbols are absolute.
 */
function addressesOf(image: Buffer, { names, countAt }: Names, indexEnd: number): bigint[] | undefined {
  const bytes = align(4 * names.length, 8);
  for (const [offsets, base] of [
    [countAt - 8 - bytes, countAt - 8],
    [align(indexEnd, 8), align(indexEnd, 8) + bytes],
  ] as const) {
    if (offsets < 0 || base + 8 > image.length) continue;
    const relativeTo = image.readBigUInt64LE(base);
    if (relativeTo < 0xffff_ffff_0000_0000n && relativeTo !== 0n) continue;
    const values = names.map((_, i) => image.readInt32LE(offsets + 4 * i));
    const perCpu = values.some((v) => v < 0);
    const found = values.map((v) => {
      if (!perCpu) return BigInt.asUintN(64, relativeTo + BigInt(v >>> 0));
      return v >= 0 ? BigInt(v) : BigInt.asUintN(64, relativeTo - 1n - BigInt(v));
    });
    const text = found[names.findIndex((n) => n.slice(1) === '_text')];
    if (text !== undefined && text >= 0xffff_ffff_8000_0000n) return found;
  }
  return undefined;
}
