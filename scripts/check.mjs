#!/usr/bin/env node
// `npm run check`: every gate but the tests that need more than this process, side by side. Each one's output is shown
// whole when it ends; the status is 1 when any failed, 2 for a name that is none.
// `npm run check -- spelling words` runs those, `npm run check -- --except unit` all others.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
// scripts of package.json; the longest first: they decide how long all of them take
const STEPS = ['unit', 'lint', 'types', 'spelling', 'unused', 'structure', 'words', 'markdown', 'format'];
const DEADLINE_MS = 600_000;

const children = new Set();
process.on('SIGINT', () => {}).on('SIGTERM', () => children.forEach((c) => c.kill('SIGTERM')));

function run(step) {
  const start = Date.now();
  return new Promise((resolve) => {
    const child = spawn('npm', ['run', '--silent', step], {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: DEADLINE_MS,
      env: process.stdout.isTTY ? { ...process.env, FORCE_COLOR: '1' } : process.env,
    });
    children.add(child);
    const chunks = [];
    child.stdout.on('data', (c) => chunks.push(c));
    child.stderr.on('data', (c) => chunks.push(c));
    child.on('error', (e) => chunks.push(Buffer.from(`${e.message}\n`)));
    child.on('close', (status) => {
      children.delete(child);
      const seconds = ((Date.now() - start) / 1000).toFixed(0);
      process.stdout.write(Buffer.concat(chunks));
      process.stdout.write(`* ${step}: ${status === 0 ? 'ok' : 'FAILED'} (${seconds} s)\n`);
      resolve(status === 0);
    });
  });
}

function chosen(given) {
  // as behind `npm run`, also where no npm takes it away
  const args = given[0] === '--' ? given.slice(1) : given;
  const except = args[0] === '--except';
  const names = except ? args.slice(1) : args;
  const unknown = names.find((name) => !STEPS.includes(name));
  if (unknown !== undefined || (except && names.length === 0)) return undefined;
  return STEPS.filter((step) => names.length === 0 || names.includes(step) !== except);
}

const steps = chosen(process.argv.slice(2));
if (steps === undefined) {
  process.stderr.write(
    `usage: npm run check [-- [--except] STEP...], with STEP one of ${STEPS.join(', ')}\n`,
  );
  process.exitCode = 2;
} else {
  const results = await Promise.all(steps.map(run));
  process.exitCode = results.every(Boolean) ? 0 : 1;
}
