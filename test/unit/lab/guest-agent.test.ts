// cspell:ignore argum
import { afterEach, describe, expect, it } from 'vitest';
import { existsSync, openSync, constants, writeSync, closeSync } from 'node:fs';
import { Channel } from '../../../src/lab/channel.ts';
import { AgentLevel, pollMs } from '../../../src/lab/guest-agent.ts';
import { run } from '../../../src/lab/levels.ts';
import { sleep } from '../../../src/core/wait.ts';
import { fakeAgent } from '../../support/fake-agent.ts';
import type { FakeAgent, Request } from '../../support/fake-agent.ts';

const b64 = (text: string): string => Buffer.from(text).toString('base64');
const agents: FakeAgent[] = [];
afterEach(async () => {
  await sleep(40); // the channel's turn ends by itself
  for (const a of agents.splice(0)) a.close();
});

function level(answer: (r: Request) => unknown): { agent: FakeAgent; l0: AgentLevel } {
  const agent = fakeAgent(answer);
  agents.push(agent);
  return { agent, l0: new AgentLevel('L0', new Channel(agent.base, 'L0')) };
}

/** Answers guest-exec, and after `polls` polls says that the command has ended with `end`. */
function commands(end: Record<string, unknown>, polls = 1): (r: Request) => unknown {
  let left = polls;
  return (r) => {
    if (r.execute === 'guest-exec') return { pid: 77 };
    if (r.execute !== 'guest-exec-status') return {};
    return --left > 0 ? { exited: false } : { exited: true, ...end };
  };
}

describe('AgentLevel.exec', () => {
  it('gives status and both outputs', async () => {
    const { l0 } = level(commands({ exitcode: 3, 'out-data': b64('out'), 'err-data': b64('err') }, 3));
    const r = await l0.exec(['x']);
    expect([r.status, r.stdout.toString(), r.stderr.toString()]).toEqual([3, 'out', 'err']);
  });

  it('runs the command in a session of its own, with variables and input', async () => {
    const { l0, agent } = level(commands({ exitcode: 0 }));
    await l0.exec(['cat', '-n'], { env: { A: '1 2' }, input: 'text' });
    expect(agent.requests[0]?.arguments).toEqual({
      path: 'setsid',
      arg: ['env', 'A=1 2', 'cat', '-n'],
      'capture-output': true,
      'input-data': b64('text'),
    });
  });

  it('counts a signal as a shell does', async () => {
    const { l0 } = level(commands({ signal: 9 }));
    expect((await l0.exec(['x'])).status).toBe(137);
  });

  it('kills the whole process group at the deadline', async () => {
    const { l0, agent } = level((r) =>
      r.execute === 'guest-exec'
        ? { pid: r.arguments['capture-output'] ? 77 : 78 }
        : { exited: r.arguments['pid'] === 78, exitcode: 0 },
    );
    await expect(l0.exec(['sleep', '9'], { timeoutMs: 20 })).rejects.toMatchObject({
      code: 'HT_TIMEOUT',
      message: 'L0: sleep 9: still running after 0.02 s',
    });
    const kill = agent.requests.find((r) => JSON.stringify(r.arguments).includes('kill -KILL'));
    expect(JSON.stringify(kill?.arguments)).toContain('kill -KILL -77');
  });

  it('refuses output that the agent has cut off', async () => {
    const { l0 } = level(commands({ exitcode: 0, 'out-truncated': true }));
    await expect(l0.exec(['x'])).rejects.toMatchObject({ code: 'HT_CHANNEL' });
  });

  it('passes over the answer to somebody who is gone', async () => {
    const { l0, agent } = level(commands({ exitcode: 0, 'out-data': b64('mine') }));
    agent.send('{"return": {"pid": 5}, "id": "somebody-else"}\n');
    expect((await l0.exec(['x'])).stdout.toString()).toBe('mine');
  });

  it('gets in step again after half a message of a client that died', async () => {
    const { l0, agent } = level(commands({ exitcode: 0 }));
    const fd = openSync(`${agent.base}.in`, constants.O_WRONLY | constants.O_NONBLOCK);
    writeSync(fd, '{"execute": "guest-exec", "argum');
    closeSync(fd);
    expect((await l0.exec(['x'])).status).toBe(0);
    expect(agent.requests.map((r) => r.execute)).toEqual(['guest-exec', 'guest-exec-status']);
  });

  it('says that the machine is not running when nobody holds the pipes', async () => {
    const { l0, agent } = level(() => ({}));
    agent.end();
    await sleep(5);
    await expect(l0.exec(['x'])).rejects.toMatchObject({
      code: 'HT_CHANNEL',
      message: 'L0: the machine is not running',
    });
  });

  it('fails at once, with what it still waits for, where it is told that its machine has ended', async () => {
    let asked!: () => void;
    const waiting = new Promise<void>((resolve) => (asked = resolve));
    // a machine that was killed by others holds its pipes open, and answers nothing
    const { l0 } = level((r) => {
      if (r.execute === 'guest-exec') return { pid: 77 };
      asked();
      return undefined;
    });
    const running = l0.exec(['x'], { timeoutMs: 60_000 });
    running.catch(() => {});
    await waiting;
    l0.end();
    const ended = { code: 'HT_CHANNEL', message: expect.stringContaining('its machine has ended') as string };
    await expect(running).rejects.toMatchObject(ended);
    await expect(l0.exec(['y'])).rejects.toMatchObject(ended);
  });

  it('ends when the machine ends while it waits', async () => {
    const { l0, agent } = level((request) => {
      if (request.execute === 'guest-exec') setImmediate(() => agent.end());
      return undefined;
    });
    const r = l0.exec(['x']);
    await expect(r).rejects.toMatchObject({ code: 'HT_CHANNEL', message: 'L0: the machine has ended' });
  });
});

describe('AgentLevel files', () => {
  it('writes in chunks and reads until the end, byte by byte the same', async () => {
    const data = Buffer.from(Array.from({ length: 500_000 }, (_, i) => (i * 7) & 0xff));
    let stored = Buffer.alloc(0);
    let at = 0;
    const { l0, agent } = level((r) => {
      switch (r.execute) {
        case 'guest-file-open':
          at = 0;
          return 1000;
        case 'guest-file-write': {
          const part = Buffer.from(String(r.arguments['buf-b64']), 'base64');
          stored = Buffer.concat([stored, part]);
          return { count: part.length, eof: false };
        }
        case 'guest-file-read': {
          const part = stored.subarray(at, at + Number(r.arguments['count']));
          at += part.length;
          return { count: part.length, 'buf-b64': part.toString('base64'), eof: at >= stored.length };
        }
        case 'guest-exec':
          return { pid: 1 };
        case 'guest-exec-status':
          return { exited: true, exitcode: 0 };
        default:
          return {};
      }
    });
    await l0.writeFile('/x', data, { mode: 0o755 });
    expect((await l0.readFile('/x')).equals(data)).toBe(true);
    const opened = agent.requests.filter((r) => r.execute === 'guest-file-open').length;
    expect(agent.requests.filter((r) => r.execute === 'guest-file-close')).toHaveLength(opened);
    expect(agent.requests.find((r) => r.execute === 'guest-exec')?.arguments['arg']).toEqual([
      'chmod',
      '755',
      '/x',
    ]);
  });

  it("passes the agent's refusal on", async () => {
    const { l0 } = level(() => new Error("failed to open file '/nope'"));
    await expect(l0.readFile('/nope')).rejects.toMatchObject({
      code: 'HT_COMMAND_FAILED',
      message: "L0: guest-file-open: failed to open file '/nope'",
    });
  });
});

describe('run', () => {
  it('throws with the status and what the command said', async () => {
    const { l0 } = level(commands({ exitcode: 2, 'err-data': b64('no such module\n') }));
    await expect(run(l0, ['insmod', 'x.ko'])).rejects.toMatchObject({
      code: 'HT_COMMAND_FAILED',
      message: 'L0: insmod x.ko: status 2: no such module',
    });
  });
});

describe('Channel', () => {
  it('gives back its turn soon after the last request, so that other processes get theirs', async () => {
    const { l0, agent } = level(commands({ exitcode: 0 }));
    await l0.exec(['x']);
    expect(existsSync(`${agent.base}.lock`)).toBe(true);
    await expect.poll(() => existsSync(`${agent.base}.lock`), { timeout: 5000, interval: 10 }).toBe(false);
  });

  it('serves requests of one process in the order they were made', async () => {
    const { l0, agent } = level(commands({ exitcode: 0 }));
    await Promise.all(['a', 'b', 'c'].map((n) => l0.ping({ timeoutMs: 1000 }).then(() => n)));
    expect(agent.requests).toHaveLength(3);
  });

  it('still serves others after one gave up waiting for its turn', async () => {
    let silent = true;
    const { l0 } = level(() => (silent ? undefined : {}));
    const first = l0.ping({ timeoutMs: 80 });
    const second = l0.ping({ timeoutMs: 20 });
    await expect(second).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    await expect(first).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
    silent = false;
    await l0.ping({ timeoutMs: 500 });
  });
});

describe('pollMs', () => {
  it('grows with the time a command has taken, between 4 and 500 ms', () => {
    expect([0, 60, 1200, 60_000].map(pollMs)).toEqual([4, 5, 100, 500]);
  });
});
