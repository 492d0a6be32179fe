import { describe, expect, it } from 'vitest';
import { L2Shell } from '../../../src/lab/l2-shell.ts';
import type { LineTransport } from '../../../src/lab/l2-shell.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';

/** An L2 whose answers to each line are given by a function. */
class FakeL2 implements LineTransport {
  readonly written: string[] = [];
  readonly lines: string[];
  readonly #answer: (line: string) => string[];
  constructor(lines: string[], answer: (line: string) => string[] = () => []) {
    this.lines = lines;
    this.#answer = answer;
  }
  write(text: string): void {
    this.written.push(text);
    this.lines.push(...this.#answer(text.trimEnd()));
  }
  readLine(): Promise<string> {
    const line = this.lines.shift();
    return line === undefined
      ? Promise.reject(new HyperturtleError('HT_TIMEOUT', 'no line'))
      : Promise.resolve(line);
  }
}

const idOf = (line: string): string => line.split(' ')[1]!;
const options = { timeoutMs: 100 };

describe('commands in an L2', () => {
  it('give output lines and the exit status', async () => {
    const l2 = new FakeL2([], (l) => ['one', 'two', `### done ${idOf(l)} 3`]);
    expect(await new L2Shell(l2).run('x', options)).toEqual({ status: 3, lines: ['one', 'two'] });
    expect(l2.written[0]).toMatch(/^run [0-9a-f]+ x\n$/);
  });

  it('keep output whose last line has no newline', async () => {
    const l2 = new FakeL2([], (l) => [`tail### done ${idOf(l)} 0`]);
    expect(await new L2Shell(l2).run('x', options)).toEqual({ status: 0, lines: ['tail'], unended: 'tail' });
  });

  it('do not take the end of an older command for their own', async () => {
    const l2 = new FakeL2(['### done 0123456789ab 0'], (l) => [`### done ${idOf(l)} 0`]);
    const r = await new L2Shell(l2).run('x', options);
    expect(r.lines).toEqual(['### done 0123456789ab 0']);
  });

  it('are up only when the L2 answers, whatever an earlier one left in the channel', async () => {
    const l2 = new FakeL2(['old', '### L2 up 9.00'], (l) => [
      'noise',
      '### L2 up 1.50',
      `### done ${idOf(l)} 0`,
    ]);
    await new L2Shell(l2).whenUp(options);
    expect(l2.lines).toEqual([]);
  });

  it('serve a program that waits at a gate', async () => {
    const l2: FakeL2 = new FakeL2([], (l) =>
      l.startsWith('run') ? ['{"gate":"before"}'] : l === 'go' ? [`### done ${idOf(l2.written[0]!)} 0`] : [],
    );
    const r = await new L2Shell(l2).run('first_touch', {
      ...options,
      onLine: (line) => (line.includes('gate') ? 'go' : undefined),
    });
    expect(r.status).toBe(0);
    expect(l2.written.at(-1)).toBe('go\n');
  });

  it('refuse a command of several lines, and report a failed one with its last words', async () => {
    const l2 = new FakeL2([], (l) => ['no such file', `### done ${idOf(l)} 1`]);
    await expect(new L2Shell(l2).run('a\nb', options)).rejects.toThrow(/one line/);
    await expect(new L2Shell(l2).runOk('cat x', options)).rejects.toThrow(/status 1: no such file/);
  });
});
