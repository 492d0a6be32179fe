import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Command } from 'commander';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { register } from '../../../src/cli/lab/command.ts';

let state: string;
let out: string;

beforeEach(() => {
  state = mkdtempSync(path.join(os.tmpdir(), 'ht-cli-'));
  vi.stubEnv('XDG_STATE_HOME', state);
  out = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(state, { recursive: true });
});

async function hyperturtle(...args: string[]): Promise<void> {
  const program = new Command('hyperturtle').exitOverride();
  register(program);
  const quiet = (c: Command): void => {
    c.configureOutput({ writeErr: () => {} }).exitOverride();
    c.commands.forEach(quiet);
  };
  quiet(program);
  await program.parseAsync(args, { from: 'user' });
}

describe('hyperturtle lab', () => {
  it('says how to start a lab when there is none', async () => {
    await hyperturtle('lab', 'status');
    expect(out).toBe("no lab: start one with 'hyperturtle lab up'\n");
  });

  it('lists no labs as JSON', async () => {
    await hyperturtle('lab', 'status', '--json');
    expect(JSON.parse(out)).toEqual({ labs: [] });
  });

  it.each([['exec', '--', 'true'], ['cp', 'a', 'l0:/b'], ['console']])(
    'says how to start the lab that %s needs',
    async (...args) => {
      await expect(hyperturtle('lab', ...args)).rejects.toMatchObject({
        code: 'HT_NOT_FOUND',
        message: "lab 'default' is not up: start it with 'hyperturtle lab up --name default'",
      });
    },
  );

  it('refuses to end a lab that is not there', async () => {
    await expect(hyperturtle('lab', 'down', '-n', 'x')).rejects.toMatchObject({ code: 'HT_NOT_FOUND' });
  });

  it.each([
    [['exec', '--level', '3', '--', 'true'], /level/],
    [['exec', '--env', 'novalue', '--', 'true'], /NAME=value/],
    [['exec', '--timeout', 'soon', '--', 'true'], /--timeout: a whole number/],
    [['exec', '--l2', '4', '--', 'true'], /--l2: a whole number from 0 to 3/],
    [['up', '--accel', 'magic'], /tcg, kvm/],
    [['up', '--kernel', '06.1'], /kernel '06\.1': expected a series such as 6\.1/],
    [['modules', '--kernel', '06.1'], /kernel '06\.1': expected a series such as 6\.1/],
    [['up', '--l1-memory', '1'], /--l1-memory: a whole number from 512/],
    [['exec'], /missing required argument/],
  ])('refuses %j before anything starts', async (args, why) => {
    await expect(hyperturtle('lab', ...args)).rejects.toThrow(why);
  });
});
