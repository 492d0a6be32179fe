/** `bench paper` goes on where it was interrupted: benches are programs made here that note that they ran. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { register } from '../../../../src/cli/bench/command.ts';
import { exampleResult } from '../../../support/bench-samples.ts';

const RESULT = {
  benchmark: 'exit',
  environment: exampleResult().environment,
  reflected: { vanilla: {}, accelerated: {} },
  parameters: { rounds: 1, exits: 10, l1MemoryMib: 2048, l1Cpus: 1 },
  samples: [
    { variant: 'vanilla', instruction: 'cpuid', round: 0, ticks: 50_000 },
    { variant: 'accelerated', instruction: 'cpuid', round: 0, ticks: 10_000 },
  ],
};

let dir: string;
const argv1 = process.argv[1]!;
beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ht-paper-'));
  const fake = path.join(dir, 'bench.cjs');
  writeFileSync(path.join(dir, 'result'), JSON.stringify(RESULT));
  writeFileSync(
    fake,
    `const fs = require('fs');
fs.appendFileSync(${JSON.stringify(path.join(dir, 'ran'))}, process.argv.slice(3).join(' ') + '\\n');
if (fs.existsSync(${JSON.stringify(path.join(dir, 'fails'))})) process.exit(1);
fs.copyFileSync(${JSON.stringify(path.join(dir, 'result'))}, process.argv[process.argv.indexOf('--json') + 1]);`,
  );
  process.argv[1] = fake;
  vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
});
afterEach(() => {
  process.argv[1] = argv1;
  process.exitCode = undefined;
  vi.restoreAllMocks();
  rmSync(dir, { recursive: true });
});

const times = (): number =>
  existsSync(path.join(dir, 'ran')) ? readFileSync(path.join(dir, 'ran'), 'utf8').split('\n').length - 1 : 0;

async function paper(...more: string[]): Promise<string> {
  const program = new Command();
  register(program, '0');
  await program.parseAsync(['node', 'x', 'bench', 'paper', '--only', 'exit', '--dir', dir, ...more]);
  return readFileSync(path.join(dir, 'paper.html'), 'utf8');
}

describe('bench paper', () => {
  it('keeps what ended well by the same arguments, and runs the rest', async () => {
    const first = await paper('--quick');
    expect(times()).toBe(1);
    expect(await paper('--quick')).toContain('5×');
    expect(first).toContain('5×');
    expect(times()).toBe(1);
    await paper(); // other arguments
    expect(times()).toBe(2);
    await paper('--again');
    expect(times()).toBe(3);
  });

  it('hands on what the time of the lab is, which no hardware counts', async () => {
    await paper('--quick');
    await paper('--quick', '--clock', 'instructions');
    const ran = readFileSync(path.join(dir, 'ran'), 'utf8').trim().split('\n');
    expect(ran.map((l) => /--clock \w+/.exec(l)?.[0])).toEqual([undefined, '--clock instructions']);
    await expect(paper('--accel', 'kvm', '--clock', 'instructions')).rejects.toThrow(/leave one of them out/);
    expect(times()).toBe(2);
  });

  it('runs again what failed, and what was to be run again and failed', async () => {
    await paper('--quick');
    writeFileSync(path.join(dir, 'fails'), '');
    await paper('--quick', '--again');
    expect([times(), process.exitCode]).toEqual([2, 1]);
    rmSync(path.join(dir, 'fails'));
    process.exitCode = undefined;
    await paper('--quick');
    expect([times(), process.exitCode]).toEqual([3, undefined]);
  });

  it('takes a record that does not read for none', async () => {
    await paper('--quick');
    writeFileSync(path.join(dir, 'ended.json'), '{"exit": {"args": 7}}');
    await paper('--quick');
    expect(times()).toBe(2);
  });
});
