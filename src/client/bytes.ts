/** Keys, values and constants as people write and read them: numbers, bytes, text. */
import { HyperturtleError } from '../core/errors.ts';

/**
 * `5`, `-1` and `0x10` are little-endian numbers of `bytes` bytes (8 at most); `hex:0a0b` and `base64:Cgs=` are bytes as
 * they stand, exactly as many; `text:abc` is filled up with zeros. Throws HT_USAGE. `what` is for the message.
 */
export function parseBytes(text: string, bytes: number, what: string): Buffer {
  const bad = (why: string): never => {
    throw new HyperturtleError(
      'HT_USAGE',
      `${what} '${text}': ${why}; give a number, hex:BYTES, base64:BYTES or text:WORDS of ${bytes} bytes`,
    );
  };
  const [, form, rest = ''] = /^(hex|base64|text):([^]*)$/.exec(text) ?? [];
  if (form !== undefined) {
    if (form === 'hex' && !/^([0-9a-fA-F]{2})*$/.test(rest)) bad('not hexadecimal');
    if (form === 'base64' && !/^[A-Za-z0-9+/]*={0,2}$/.test(rest)) bad('not base64');
    const given = Buffer.from(rest, form === 'text' ? 'utf8' : (form as 'hex' | 'base64'));
    if (given.length > bytes || (form !== 'text' && given.length !== bytes))
      bad(`${given.length} bytes given, ${bytes} expected`);
    const out = Buffer.alloc(bytes);
    given.copy(out);
    return out;
  }
  if (!/^-?(\d+|0x[0-9a-fA-F]+)$/.test(text)) bad('not understood');
  if (bytes > 8) bad(`a number has at most 8 bytes, ${bytes} expected`);
  const negative = text.startsWith('-');
  const n = BigInt(negative ? text.slice(1) : text) * (negative ? -1n : 1n);
  const bits = BigInt(8 * bytes);
  if (n >= 1n << bits || n < -(1n << (bits - 1n))) bad(`does not fit ${bytes} bytes`);
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(BigInt.asUintN(64, n));
  return out.subarray(0, bytes);
}

/** Numbers of 1, 2, 4 or 8 bytes as such (unsigned, little-endian), all else as `hex:`. Takes base64. */
export function formatBytes(base64: string, form: 'auto' | 'hex' | 'text' = 'auto'): string {
  const bytes = Buffer.from(base64, 'base64');
  if (form === 'text')
    return bytes
      .toString('utf8')
      .replace(/\0+$/, '')
      .replaceAll(/[^\P{C}]/gu, '.');
  if (form === 'auto' && [1, 2, 4, 8].includes(bytes.length)) {
    const wide = Buffer.alloc(8);
    bytes.copy(wide);
    return wide.readBigUInt64LE().toString();
  }
  return `hex:${bytes.toString('hex')}`;
}

/** A per-CPU value: the sum where the values are numbers, and each CPU's that is not zero. */
export function formatPerCpu(perCpu: readonly string[], form: 'auto' | 'hex' | 'text' = 'auto'): string {
  const each = perCpu
    .map((v, cpu) => [cpu, v] as const)
    .filter(([, v]) => Buffer.from(v, 'base64').some((b) => b !== 0))
    .map(([cpu, v]) => `cpu${cpu}=${formatBytes(v, form)}`);
  const texts = perCpu.map((v) => formatBytes(v, form));
  const numbers = form === 'auto' && texts.every((t) => /^\d+$/.test(t));
  const sum = numbers ? [`sum=${texts.reduce((n, t) => n + BigInt(t), 0n)}`] : [];
  return [...sum, ...each].join(' ');
}

/** `npf` for `/usr/lib/hyperturtle/npf.bpf.o`. */
export function objectNameOf(file: string): string {
  const base = file.slice(file.lastIndexOf('/') + 1).replace(/(\.bpf)?\.o$/, '');
  return (
    base
      .replace(/[^A-Za-z0-9_.-]/g, '_')
      .replace(/^[.-]+/, '')
      .slice(0, 63) || 'object'
  );
}

export function bytesText(bytes: number): string {
  if (bytes >= 1 << 20) return `${(bytes / (1 << 20)).toFixed(bytes % (1 << 20) === 0 ? 0 : 1)} MiB`;
  if (bytes >= 1 << 10) return `${(bytes / (1 << 10)).toFixed(bytes % (1 << 10) === 0 ? 0 : 1)} KiB`;
  return `${bytes} B`;
}
