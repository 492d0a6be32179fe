#!/usr/bin/env node
// `npm run check`: types, lint, format and unit tests side by side. Each one's output is shown whole when it ends; the
// status is 1 when any failed.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
// the longest first: they decide how long all of them take
const STEPS = ['unit', 'lint', 'types', 'format'];
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

const results = await Promise.all(STEPS.map(run));
process.exitCode = results.every(Boolean) ? 0 : 1;
