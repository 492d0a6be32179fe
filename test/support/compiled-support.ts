/** Files of this folder as programs that node can start, beside the compiled sources that they import. */
import { readFileSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { compiledSources } from './compiled.ts';

const OPTIONS: ts.CompilerOptions = {
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  target: ts.ScriptTarget.ES2022,
  rewriteRelativeImportExtensions: true,
};

/** Compiles the files and those named with them, and gives the path of the first. */
export function compiledSupport(...names: [string, ...string[]]): string {
  const dir = path.join(compiledSources(), '../test/support');
  mkdirSync(dir, { recursive: true });
  const out = (name: string): string => path.join(dir, name.replace(/\.ts$/, '.js'));
  for (const name of names) {
    const fileName = path.join(import.meta.dirname, name);
    const { outputText } = ts.transpileModule(readFileSync(fileName, 'utf8'), {
      compilerOptions: OPTIONS,
      fileName,
    });
    // another test file may be starting it just now
    const staging = `${out(name)}.${process.pid}`;
    writeFileSync(staging, outputText);
    renameSync(staging, out(name));
  }
  return out(names[0]);
}
