/** Bytecode of starts: one that does not end is a failure of the build, not a program without bytecode. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';

type Learn = (start: readonly string[], src: string, timeoutMs: number) => void;
const { learn } = (await import(pathToFileURL('scripts/learn.mjs').href)) as { learn: Learn };

let src: string;
beforeEach(() => {
  src = mkdtempSync(path.join(os.tmpdir(), 'ht-learn-'));
  mkdirSync(path.join(src, 'core'));
});
afterEach(() => rmSync(src, { recursive: true }));

/** `body`: of the start, whose arguments are `given`. */
function program(body: string): void {
  writeFileSync(path.join(src, 'package.json'), '{"type":"module"}');
  const part = `{ bytecode: ${JSON.stringify(path.join(src, 'kept'))}, script: { createCachedData: () => Buffer.from('x') } }`;
  writeFileSync(
    path.join(src, 'core/start.js'),
    `export const loadedParts = () => [${part}];\nexport function startProgram(name) { ${body} }\n`,
  );
}

it('a start that ends is kept, whatever its status', () => {
  program('process.exit(3)');
  learn(['a', 'NONE'], src, 60_000);
  expect(existsSync(path.join(src, 'kept'))).toBe(true);
});

it('a start that does not end in time, or dies, is an error with its name', () => {
  program('setInterval(() => {}, 1000)');
  expect(() => learn(['a', 'status'], src, 1500)).toThrow(
    "the start of 'a status' did not end in 1.5 s: there is no bytecode of it",
  );
  program("process.kill(process.pid, 'SIGKILL')");
  expect(() => learn(['b'], src, 60_000)).toThrow("the start of 'b' was ended by SIGKILL");
});
