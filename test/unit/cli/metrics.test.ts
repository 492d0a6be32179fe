/** `hyperturtle metrics`: what its options choose, and what they refuse. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createProgram } from '../../../src/cli/program.ts';

let out: string;
beforeEach(() => {
  out = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
});

const run = async (...words: string[]): Promise<string> => {
  await (await createProgram('0', words)).parseAsync(words, { from: 'user' });
  return out;
};

it('prints the rules of daemons and agents, with the jobs and documents that are named', async () => {
  const all = await run('metrics', 'rules', '--host-job', 'l0', '--docs-url', 'https://docs.example/ht');
  expect(all).toContain('up{job="l0"} == 0');
  expect(all).toContain('up{job="hyperturtle-agent"} == 0');
  expect(all).toContain('runbook_url: https://docs.example/ht/troubleshooting.md#nothing-is-accelerated');
});

it('prints the dashboard of agents alone', async () => {
  const dashboard = JSON.parse(await run('metrics', 'dashboard', '--of', 'agent')) as { uid: string };
  expect(dashboard.uid).toBe('hyperturtle');
  expect(out).toContain('hyperturtle_agent_');
  expect(out).not.toContain('hyperturtle_host_');
});

it.each([
  ['--host-job', 'a"b'],
  ['--agent-job', ''],
  ['--docs-url', 'docs'],
  ['--docs-url', 'https://x/{{ y }}'],
])('refuses %s %j', async (option, value) => {
  await expect(run('metrics', 'rules', option, value)).rejects.toMatchObject({ code: 'HT_USAGE' });
  expect(out).toBe('');
});
