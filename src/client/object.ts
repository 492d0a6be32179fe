/** Compiled objects as requests carry them: found, read, signed, with their constants. */
import { existsSync, lstatSync } from 'node:fs';
import path from 'node:path';
import { parseElf } from '../bpf/elf.ts';
import { codeFile } from '../core/code-file.ts';
import { PLACES } from '../core/default-paths.ts';
import { variable } from '../core/environment.ts';
import { HyperturtleError } from '../core/errors.ts';
import { readInput } from '../core/files.ts';
import { readObjectFile } from '../core/object-file.ts';
import { KEY_BYTES_MAX } from '../core/signature.ts';
import { parseSignature } from '../guest/agent/desired.ts';
import type { Params } from '../wire/schema.ts';
import { parseBytes } from './bytes.ts';

/** The parts of a request that come from files. */
export type ObjectParams = Omit<Params<'load'>, 'name'>;

/** Where compiled programs are looked for, after $HYPERTURTLE_BPF: as installed, in this package, and in the payload of a lab. */
const FOLDERS = [PLACES.programs.path, ...['../bpf', '../../../bpf'].map(codeFile)];

/** Throws HT_NOT_FOUND, naming where it was looked for. */
export function objectFile(file: string): string {
  const own = variable('HYPERTURTLE_BPF');
  const folders = [...(own === undefined ? [] : [own]), ...FOLDERS];
  const found = folders.map((f) => path.join(f, file)).find((f) => existsSync(f));
  if (found !== undefined) return found;
  throw new HyperturtleError(
    'HT_NOT_FOUND',
    `${file} is in none of ${folders.join(', ')}: give --object FILE, or its folder as HYPERTURTLE_BPF`,
  );
}

/** The parts of a request that come from files. Throws HT_NOT_FOUND, HT_CONFIG, HT_USAGE. */
export function readObject(
  file: string,
  options: { signature?: string | undefined; set?: Record<string, string> } = {},
): ObjectParams {
  const { set = {} } = options;
  const elf = readObjectFile(file);
  const sigFile = options.signature ?? `${file}.sig`;
  // a link that leads nowhere is no reason to load without a signature
  const wanted = options.signature !== undefined || lstatSync(sigFile, { throwIfNoEntry: false });
  const sig = wanted
    ? readInput(sigFile, "give a signature that 'hyperturtle sign' wrote", KEY_BYTES_MAX)
    : undefined;
  return {
    elf: elf.toString('base64'),
    ...(sig ? { signature: parseSignature(sig.toString('utf8'), sigFile) } : {}),
    ...(Object.keys(set).length > 0 ? { constants: constants(elf, set) } : {}),
  };
}

/** The size of each is the variable's own. */
function constants(elf: Buffer, set: Record<string, string>): Record<string, string> {
  const { sections, symbols } = parseElf(elf);
  const rodata = sections.findIndex((s) => s.name === '.rodata');
  return Object.fromEntries(
    Object.entries(set).map(([name, value]) => {
      const symbol = symbols.find((s) => s.name === name && s.section === rodata);
      if (!symbol)
        throw new HyperturtleError(
          'HT_USAGE',
          `--set ${name}: the object has no 'const volatile' of that name`,
        );
      return [name, parseBytes(value, symbol.size, `--set ${name}`).toString('base64')];
    }),
  );
}
