/** What `doctor` and `status` say to do about each problem. */
import { expect, it } from 'vitest';
import { fixOf } from '../../../../src/guest/agent/fixes.ts';
import { stepText } from '../../../../src/guest/agent/reconcile.ts';
import { WIRE_ERRORS } from '../../../../src/wire/errors.ts';

const link = { object: 'firewall.web', hook: 'tc-egress', origin: 'command' } as const;
const steps = [
  stepText({ do: 'link', link }),
  stepText({ do: 'link', link: { ...link, target: 'web' } }),
  stepText({ do: 'unload', name: 'firewall.web' }),
  'read firewall.web',
  'list',
];

it('the way to end a problem is a command, whatever went wrong; the log is for bugs alone', () => {
  const bugs = new Set([
    'INTERNAL',
    'PARSE_ERROR',
    'INVALID_REQUEST',
    'METHOD_NOT_FOUND',
    'UNSUPPORTED_PROTOCOL',
  ]);
  // never told by a host that was asked to load, link or list
  const never = new Set(['EXISTS', 'IN_USE']);
  for (const kind of Object.keys(WIRE_ERRORS).filter((k) => !bugs.has(k) && !never.has(k)))
    for (const step of steps) {
      expect(fixOf({ step, kind }), `${step} ${kind}`).toContain('hyperturtle ');
      expect(fixOf({ step, kind }), `${step} ${kind}`).not.toContain("agent's log");
    }
});

it('names the object and the NIC that the problem is about', () => {
  expect(fixOf({ step: steps[1]!, kind: 'QUOTA' })).toContain("'hyperturtle nic del web --force'");
  expect(fixOf({ step: steps[0]!, kind: 'UNSUPPORTED' })).toContain(
    "'hyperturtle unload firewall.web --force'",
  );
  expect(fixOf({ step: 'read npf', kind: 'NOT_FOUND' })).toMatch(/file of npf.*guest\.yaml/);
});
