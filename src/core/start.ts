/**
 * How a bundled program (scripts/bundle.mjs) starts: it is in parts, scripts of one function each, which are read when they are
 * required. Beside a part may be the bytecode of what starts run of it, which V8 takes instead of compiling. Bytecode of
 * another version of Node, or none, costs time and nothing else.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Script, constants } from 'node:vm';
import { codeFile } from './code-file.ts';

/** What parts require of others. */
const OTHER_PART = './';

/** A part of a program. */
interface Part {
  readonly script: Script;
  readonly module: { exports: unknown };
  /** File that has its bytecode, or will. */
  readonly bytecode: string;
}

const DIRECTORY = codeFile('programs');
const requireOther = createRequire(join(DIRECTORY, 'any'));
const parts = new Map<string, Part>();

/**
 * Runs the program in this process or thread. `name`: without its extension, such as `cli/main`.
 * @public scripts/bundle.mjs writes what calls it
 */
export function startProgram(name: string): void {
  requirePart(`${name.replaceAll('/', '-')}.cjs`);
}

/**
 * `script.cachedDataRejected` says whether the bytecode was of use.
 * @public scripts/bundle.mjs
 */
export function loadedParts(): readonly Part[] {
  return [...parts.values()];
}

function requirePart(name: string): unknown {
  const known = parts.get(name);
  if (known) return known.module.exports;
  const source = join(DIRECTORY, name);
  const bytecode = source.replace(/cjs$/, 'bytecode');
  // scripts/bundle.mjs leaves nothing in it but ASCII
  const script = new Script(readFileSync(source, 'latin1'), {
    filename: source,
    cachedData: contentOf(bytecode),
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
  const module = { exports: {} };
  // parts may require each other: what there is of one is known before it has run
  parts.set(name, { script, module, bytecode });
  const body = script.runInThisContext() as (...args: unknown[]) => void;
  try {
    body(module.exports, requireFrom, module, source, DIRECTORY);
  } catch (e) {
    // nobody gets what is half made
    parts.delete(name);
    throw e;
  }
  return module.exports;
}

const requireFrom = (wanted: string): unknown =>
  wanted.startsWith(OTHER_PART) ? requirePart(wanted.slice(OTHER_PART.length)) : requireOther(wanted);

function contentOf(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch {
    return undefined;
  }
}
