#!/usr/bin/env node
// Part of `npm run markdown`: lines of documents can be read in a terminal and in a diff. Prose has at most 100
// columns, and of all lines, tables and code among them, nine in ten have no more.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const MAX = 100;
const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

function documents() {
  const below = ['docs', '.github']
    .filter((dir) => existsSync(path.join(ROOT, dir)))
    .flatMap((dir) =>
      readdirSync(path.join(ROOT, dir), { recursive: true }).map((name) => path.join(dir, name)),
    );
  return [...readdirSync(ROOT), ...below].filter((file) => file.endsWith('.md')).sort();
}

/** Lines that have to be as long as they are: tables, code, pictures. */
const isWhole = (line) => /^\||^ {4}|^\[?!\[/.test(line);

const lengths = [];
const problems = [];
for (const file of documents()) {
  let inFence = false;
  const lines = readFileSync(path.join(ROOT, file), 'utf8').trimEnd().split('\n');
  for (const [i, line] of lines.entries()) {
    const isFence = /^ *```/.test(line);
    if (line.length > MAX && !inFence && !isFence && !isWhole(line))
      problems.push(`${file}:${i + 1}: ${line.length} columns, ${MAX} at most: wrap it`);
    if (isFence) inFence = !inFence;
    lengths.push(line.length);
  }
}
const p90 = lengths.sort((a, b) => a - b)[Math.ceil(lengths.length * 0.9) - 1];
if (p90 > MAX)
  problems.push(
    `documents: 90% of all lines have up to ${p90} columns, ${MAX} at most: wrap, or make lists of wide tables`,
  );
for (const problem of problems) process.stdout.write(`${problem}\n`);
process.exitCode = problems.length === 0 ? 0 : 1;
