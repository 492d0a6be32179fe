/** Firewall rules of a pod's annotation, behind those of the network's configuration. */
import { describe, expect, it } from 'vitest';
import { CNI_ERRORS, cniError } from '../../../src/cni/errors.ts';
import { parseRequest } from '../../../src/cni/config.ts';

const ENV = { CNI_CONTAINERID: 'c', CNI_IFNAME: 'eth0', CNI_NETNS: '/n' };
const request = (text: unknown, policy: object | undefined, command = 'ADD') =>
  parseRequest(
    { ...ENV, CNI_COMMAND: command },
    JSON.stringify({
      ...{ cniVersion: '1.0.0', name: 'n', type: 't', policy },
      runtimeConfig: { 'io.kubernetes.cri.pod-annotations': { 'hyperturtle.io/firewall': text, other: 'x' } },
    }),
  ).config.policy;
const codeOf = (text: unknown, policy: object | undefined): number => {
  try {
    request(text, policy);
    return 0;
  } catch (e) {
    return cniError(e).code;
  }
};
const RULES = 'allow in tcp from any port 80-443\n# comment\nallow out udp to any port 53; allow out tcp\n';

describe('the annotation of a pod', () => {
  it('is its policy where the network has none: what it does not allow is denied', () => {
    expect(request(RULES, { pod: 'after' })?.firewall).toEqual({
      rules: ['allow in tcp from any port 80-443', 'allow out udp to any port 53', 'allow out tcp'],
    });
    expect(request('{"default": {"out": "allow"}}', { pod: 'after' })?.firewall).toEqual({
      default: { out: 'allow' },
    });
  });

  it("stands behind the network's rules, and passes no frame that the network does not by default", () => {
    const firewall = { default: { out: 'allow' }, rules: ['deny out tcp port 25'] };
    expect(
      request('{"default": "allow", "nonIp": "allow", "rules": ["allow out tcp"]}', {
        pod: 'after',
        firewall,
      }),
    ).toEqual({
      pod: 'after',
      required: true,
      firewall: {
        rules: ['deny out tcp port 25', 'allow out tcp'],
        default: { in: 'deny', out: 'allow' },
        nonIp: { in: 'deny', out: 'allow' },
        neighbours: true,
      },
    });
    expect(request('allow out tcp', { pod: 'after', firewall })?.firewall?.default).toEqual({
      in: 'deny',
      out: 'deny',
    });
  });

  it.each([
    ['where the network takes none', RULES, { required: true }],
    ['where the network has no policy', RULES, undefined],
    ['that is no rule', 'allow everything', { pod: 'after' }],
    ['that is no policy', '{"rules": 7}', { pod: 'after' }],
    ['that is no JSON', '{', { pod: 'after' }],
    ['that is no text', 7, { pod: 'after' }],
  ])('%s keeps the pod from starting', (_, text, policy) => {
    expect(codeOf(text, policy)).toBe(CNI_ERRORS.POLICY);
  });

  it('does not stand in the way of DEL', () => {
    expect(request('no rule', { pod: 'after' }, 'DEL')).toEqual({ pod: 'after', required: true });
  });
});
