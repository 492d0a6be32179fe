#!/usr/bin/env node
// `npm run build:bpf`: the eBPF programs into dist/bpf, with the lab's packaged clang, for what is installed and packed.
import { cpSync, mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const load = (file) => import(path.join(ROOT, 'dist/src', file));
const { buildInstalledPrograms } = await load('lab/prepare.js');
const { defaultKernel } = await load('lab/debian.js');
const { createProgress } = await load('core/progress.js');
const { abortOnSignals } = await load('core/lifecycle.js');

const signals = abortOnSignals();
try {
  const { dir } = await buildInstalledPrograms({
    kernel: defaultKernel(),
    progress: createProgress(),
    signal: signals.signal,
  });
  const to = path.join(ROOT, 'dist/bpf');
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to, { recursive: true });
  cpSync(dir, to, { recursive: true });
} finally {
  signals.dispose();
}
