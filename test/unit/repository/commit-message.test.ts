/** What .githooks/commit-msg says of a message. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';

const dir = mkdtempSync(path.join(tmpdir(), 'hyperturtle-message-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function judge(message: string): string {
  const file = path.join(dir, 'message');
  writeFileSync(file, message);
  const r = spawnSync(process.execPath, ['scripts/commit-message.mjs', file], { encoding: 'utf8' });
  expect(r.status).toBe(r.stderr === '' ? 0 : 1);
  return r.stderr;
}

it('takes a subject of 72 characters with a body, and what git adds to them', () => {
  expect(judge(`${'x'.repeat(72)}\n\nWhy.\n# On branch main\n`)).toBe('');
  expect(judge('A thing\n\nWhy.\n# ------------------------ >8 ------------------------\ndiff\n')).toBe('');
  expect(judge("Merge branch 'other'\n")).toBe('');
});

it('tells a longer subject, a missing body and a second line that is not empty', { timeout: 60_000 }, () => {
  expect(judge(`${'x'.repeat(73)}\n\nWhy.\n`)).toBe(
    'commit message: the first line has 73 characters: 72 at most\n',
  );
  expect(judge('A thing\n')).toBe('commit message: there is no body: say why, below an empty line\n');
  expect(judge('A thing\nthat goes on\nand on\n')).toMatch(/^commit message: the second line is not empty/);
  expect(judge('# only a comment\n')).toMatch(/^commit message: the first line is empty/);
});
