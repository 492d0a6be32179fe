/** What `nic del` says is still wanted. */
import { expect, it } from 'vitest';
import { delText } from '../../../src/cli/nic.ts';

const NOTHING = { links: [], objects: [] };
const link = (object: string, hook: string) => ({
  ...{ object, hook, program: null, target: 'web', origin: 'command' as const },
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
