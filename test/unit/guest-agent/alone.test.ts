/** Two agents on one machine. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Agent } from '../../../src/guest/agent/agent.ts';
import { checkPortFree, holdState } from '../../../src/guest/agent/alone.ts';
import { AgentConfig } from '../../../src/guest/agent/config.ts';

let dir: string;
beforeEach(() => (dir = mkdtempSync(path.join(os.tmpdir(), 'ht-alone-'))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));
const never = new AbortController().signal;
const log = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {}, trace: () => {} };

describe('a second agent with a socket of its own', () => {
  it('is refused while the state directory is another’s, and starts when that one has stopped', async () => {
    const start = (socket: string): Promise<Agent> =>
      Agent.start({
        config: AgentConfig.parse({
          state: path.join(dir, 'state'),
          socket: path.join(dir, socket),
          port: path.join(dir, 'none'),
        }),
        version: '0',
        log: log,
        module: false,
      });
    const first = await start('a.sock');
    await expect(start('b.sock')).rejects.toMatchObject({
      code: 'HT_BUSY',
      message: expect.stringMatching(/state: another agent keeps its state there: stop it first/) as string,
    });
    await first.stop();
    await (await start('b.sock')).stop();
  });

  it('is refused while the port is another’s, naming its process', () => {
    mkdirSync(path.join(dir, '4711/fd'), { recursive: true });
    symlinkSync('/dev/null', path.join(dir, '4711/fd/7'));
    symlinkSync('/dev/null', path.join(dir, 'port'));
    expect(() => checkPortFree(path.join(dir, 'port'), dir)).toThrow(
      /port: process 4711 has it open, and only one agent may: stop that one first/,
    );
    expect(() => checkPortFree('/dev/zero', dir)).not.toThrow();
    expect(() => checkPortFree('/dev/not-there', dir)).not.toThrow();
    expect(() => checkPortFree(dir, dir)).not.toThrow();
  });

  it('is not refused by what a killed agent left', async () => {
    const held = await holdState(dir, never);
    await held.release();
    await (await holdState(dir, never)).release();
  });
});
