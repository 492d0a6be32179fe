/** What `nic del` says is still wanted, and what gives it up. */
import { expect, it } from 'vitest';
import { delText } from '../../../src/cli/nic/command.ts';
import { unwantNic } from '../../../src/client/nics.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';

const NOTHING = { links: [], objects: [] };
const link = (object: string, hook: string) => ({
  object,
  hook,
  program: null,
  target: 'web',
  origin: 'command' as const,
});

it('nic del says what is still wanted and the commands that end it', () => {
  const wanted = [link('firewall.web', 'tc-ingress'), link('firewall.web', 'tc-egress')];
  expect(delText('web', { existed: true, givenUp: NOTHING, wanted })).toBe(
    [
      'web removed',
      "still wanted, for when there is a NIC 'web' again: firewall.web at tc-ingress, firewall.web at tc-egress",
      'to give that up: hyperturtle disable firewall --nic web',
    ].join('\n'),
  );
  expect(delText('web', { existed: false, givenUp: NOTHING, wanted: [link('mine', 'xdp')] })).toMatch(
    /^there was no NIC 'web'\n.*mine at xdp\nto give that up: hyperturtle nic del web --force$/,
  );
});

it('nic del --force says what is not wanted any more', () => {
  const givenUp = { links: [link('firewall.web', 'tc-egress')], objects: ['firewall.web'] };
  expect(delText('web', { existed: true, givenUp, wanted: [] })).toBe(
    'web removed\nnot wanted any more: firewall.web at tc-egress, firewall.web',
  );
  expect(delText('web', { existed: true, givenUp: NOTHING, wanted: [] })).toBe('web removed');
});

/** An agent that answers as the handlers say, and throws for what it does not know, as an older one does. */
function agentWith(methods: Record<string, (params: { name: string }) => object>) {
  const asked: string[] = [];
  const request = (method: string, params: { name: string }): Promise<object> => {
    asked.push(method === 'unload' ? `unload ${params.name}` : method);
    const handler = new Map(Object.entries(methods)).get(method);
    if (!handler) return Promise.reject(new HyperturtleError('HT_UNSUPPORTED', `no method ${method}`));
    return Promise.resolve().then(() => handler(params));
  };
  const client = { peer: { request }, signal: new AbortController().signal, timeoutMs: 1000 };
  return { asked, client: client as unknown as Parameters<typeof unwantNic>[0] };
}

it('what is wanted for a NIC is given up by one request', async () => {
  const given = { links: [link('mine', 'xdp')], objects: [] };
  const { asked, client } = agentWith({ 'agent.unwant': () => given });
  expect(await unwantNic(client, 'web')).toEqual(given);
  expect(asked).toEqual(['agent.unwant']);
});

it('an agent of an earlier version is asked for each program of the NIC; what stays wanted is said', async () => {
  const { asked, client } = agentWith({
    unload: ({ name }) => {
      if (name === 'firewall.web') return {};
      throw new HyperturtleError('HT_NOT_FOUND', 'there is none');
    },
  });
  expect(await unwantNic(client, 'web')).toEqual({ links: [], objects: ['firewall.web'] });
  expect(asked).toContain('unload rate-limiter.web');
  const text = delText('web', { existed: true, givenUp: NOTHING, wanted: [link('mine', 'xdp')] }, true);
  expect(text).toContain(
    'to give that up: restart the agent, which is of an earlier version, and then hyperturtle nic del',
  );
});

it('what else goes wrong is told', async () => {
  const { client } = agentWith({
    'agent.unwant': () => {
      throw new HyperturtleError('HT_UNAVAILABLE', 'the host is gone');
    },
  });
  await expect(unwantNic(client, 'web')).rejects.toThrow('the host is gone');
});
