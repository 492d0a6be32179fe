/**
 * How a bundled program (scripts/bundle.mjs) starts: one CommonJS file, beside it the bytecode of what starts run, which V8
 * takes instead of compiling. Bytecode of another version of Node, or none, costs time and nothing else.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import vm from 'node:vm';
import { codeFile } from './code-file.ts';

/** As Node's own has it: 'await' at the end of a module that nothing will settle. */
const UNSETTLED_STATUS = 13;

interface ProgramFiles {
  source: string;
  bytecode: string;
}

/**
 * `name`: of a program without its extension, such as `cli/main`.
 * @public scripts/bundle.mjs
 */
export function programFiles(name: string): ProgramFiles {
  const base = codeFile(`programs/${name.replaceAll('/', '-')}`);
  return { source: `${base}.cjs`, bytecode: `${base}.bytecode` };
}

/**
 * Runs the program in this process or thread.
 * @public scripts/bundle.mjs writes what calls it
 */
export function startProgram(name: string): void {
  loadProgram(name).run();
}

/**
 * `script.cachedDataRejected` says whether the bytecode was of use.
 * @public scripts/bundle.mjs
 */
export function loadProgram(name: string): { script: vm.Script; run: () => void } {
  const { source, bytecode } = programFiles(name);
  // scripts/bundle.mjs leaves nothing in it but ASCII
  const script = new vm.Script(
    `(function (exports, require, module, __filename, __dirname) {${readFileSync(source, 'latin1')}\n})`,
    {
      filename: source,
      cachedData: contentOf(bytecode),
      importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    },
  );
  const run = (): void => {
    const module = { exports: {} };
    const body = script.runInThisContext() as (...args: unknown[]) => void;
    body(module.exports, createRequire(source), module, source, path.dirname(source));
  };
  return { script, run };
}

function contentOf(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch {
    return undefined;
  }
}

/**
 * The whole work of a process, as `await main()` at the end of an ES module is. When nothing is left that could settle it the
 * process says so and ends with status 13: that is a bug.
 */
export function runMain(main: () => Promise<void>): void {
  let settled = false;
  process.once('beforeExit', () => {
    if (settled) return;
    process.exitCode = UNSETTLED_STATUS;
    process.emitWarning('ended before its work was done');
  });
  void main().finally(() => {
    settled = true;
  });
}
