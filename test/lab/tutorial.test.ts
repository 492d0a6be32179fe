/**
 * docs/tutorial.md: each of its `sh` blocks is run as it is written, by the command line and in a lab, in their order;
 * the `text` block that follows has what they print, but for figures.
 */
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compiled } from '../support/lab.ts';

interface Block {
  heading: string;
  script: string;
  /** What it prints, line by line. */
  prints: string[];
}

function blocks(): Block[] {
  const found: Block[] = [];
  let heading = '';
  const text = readFileSync('docs/tutorial.md', 'utf8');
  for (const m of text.matchAll(/^## (.*)$|^```(\w+)\n([^]*?)^```$/gm)) {
    if (m[1] !== undefined) heading = m[1];
    else if (m[2] === 'sh') found.push({ heading, script: m[3] ?? '', prints: [] });
    else if (m[2] === 'text') found.at(-1)!.prints = (m[3] ?? '').trimEnd().split('\n');
  }
  return found;
}

const STEP_MS = 900_000;
let dir = '';
let env: NodeJS.ProcessEnv = {};

beforeAll(async () => {
  dir = mkdtempSync(path.join(tmpdir(), 'hyperturtle-tutorial-'));
  const cli = await compiled('src/cli/main.ts');
  const bin = path.join(dir, 'bin');
  mkdirSync(bin);
  writeFileSync(path.join(bin, 'hyperturtle'), `#!/bin/sh\nexec ${process.execPath} ${cli} "$@"\n`);
  chmodSync(path.join(bin, 'hyperturtle'), 0o755);
  env = {
    ...process.env,
    PATH: `${bin}:${process.env['PATH'] ?? ''}`,
    XDG_STATE_HOME: path.join(dir, 'state'),
  };
});
afterAll(async () => {
  await sh('hyperturtle lab down || true');
  rmSync(dir, { recursive: true, force: true });
});

function sh(script: string): Promise<{ status: number; said: string }> {
  return new Promise((resolve) => {
    const options = { cwd: dir, env, timeout: STEP_MS, maxBuffer: 64 << 20 };
    execFile('sh', ['-euc', script], options, (error, stdout, stderr) =>
      resolve({ status: error === null ? 0 : Number(error.code ?? 1), said: `${stdout}${stderr}` }),
    );
  });
}

/** Without figures and widths of columns. */
const plain = (text: string): string => text.replace(/\d+(\.\d+)?/g, '0').replace(/[ \t]+/g, ' ');

describe('the tutorial', () => {
  it('has its steps', () => {
    expect(blocks().length).toBeGreaterThanOrEqual(9);
    expect(new Set(blocks().map((b) => b.heading)).size).toBeGreaterThanOrEqual(8);
  });

  it.each(blocks())('$heading', { timeout: STEP_MS }, async ({ script, prints }) => {
    const { status, said } = await sh(script);
    expect(status, said).toBe(0);
    for (const line of prints) expect(plain(said)).toContain(plain(line.trim()));
  });
});
