// What a start of a program runs, as bytecode: for scripts/bundle.mjs.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

/**
 * Runs the program with these arguments in `src` and keeps the bytecode of what ran, with what was kept before. NONE among the
 * arguments is a path where nothing is. Throws where the start does not end in time, or by a signal: there is no bytecode of it
 * then. Its exit status does not matter.
 */
export function learn([name, ...args], src, timeoutMs) {
  const learner = `
    const { startProgram, loadedParts } = await import(${JSON.stringify(pathToFileURL(`${src}/core/start.js`).href)});
    const { writeFileSync } = await import('node:fs');
    process.on('exit', () => {
      for (const { bytecode, script } of loadedParts()) writeFileSync(bytecode, script.createCachedData());
    });
    startProgram('${name}');`;
  const given = args.map((a) => (a === 'NONE' ? path.join(src, 'none/none') : a));
  // not by -e, as commander takes other arguments for the program's then
  const { error, signal } = spawnSync(process.execPath, ['--input-type=module', '-', ...given], {
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
    input: learner,
    stdio: ['pipe', 'ignore', 'ignore'],
    timeout: timeoutMs,
  });
  const what = `the start of '${[name, ...args].join(' ')}'`;
  if (error?.code === 'ETIMEDOUT')
    throw new Error(`${what} did not end in ${timeoutMs / 1000} s: there is no bytecode of it`);
  // a program that reads no input may be gone before all was written
  if (error && error.code !== 'EPIPE') throw new Error(`${what}: ${error.message}`);
  if (signal) throw new Error(`${what} was ended by ${signal}: there is no bytecode of it`);
}
