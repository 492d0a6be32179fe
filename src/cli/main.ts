#!/usr/bin/env node
/** The `hyperturtle` command. */
import { readFileSync } from 'node:fs';
import { CommanderError } from 'commander';
import { codeFile } from '../core/code-file.ts';
import { exitStatus, isHyperturtleError } from '../core/errors.ts';
import { asFileError } from '../core/files.ts';
import { guardOutput, writeErr } from '../core/output.ts';
import { runMain } from '../core/run-main.ts';
import { createProgram } from './program.ts';
import { errorText } from './shared/error-text.ts';

function versionOfPackage(): string {
  // beside dist/ in a package, and in the payload of a lab
  const text = readFileSync(codeFile('../../package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

async function main(): Promise<void> {
  // `vmm` becomes another program, whose standard output Node must not have touched
  if (process.argv[2] !== 'vmm') guardOutput('hyperturtle');
  try {
    const program = await createProgram(versionOfPackage(), process.argv.slice(2));
    await program.parseAsync();
  } catch (e) {
    if (e instanceof CommanderError) {
      // help and version end this way too; commander has printed what there is to say
      process.exitCode = e.exitCode === 0 ? 0 : 2;
      return;
    }
    const expected = asFileError(e) ?? e;
    writeErr(errorText(expected));
    process.exitCode = exitStatus(expected);
    // what an interrupted command still waits for is no reason to stay
    if (isHyperturtleError(expected, 'HT_INTERRUPTED')) setTimeout(() => process.exit(), 1000).unref();
  }
}

runMain(main);
