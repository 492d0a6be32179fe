/** Parts of the loader that need no kernel: whose turn it is, and what tenants may read of the verifier's log. */
import { describe, expect, it } from 'vitest';
import { withoutAddresses } from '../../../../src/host/loader/scrub.ts';
import { Turns } from '../../../../src/host/loader/turns.ts';

describe('the log that a tenant gets', () => {
  it('has no kernel addresses and keeps all else', () => {
    const of = (s: string): string => withoutAddresses(s);
    expect(of('27: (18) r1 = 0xffff888106758338      ; R1=map_value(map=good.bss,ks=4,vs=8)')).toBe(
      '27: (18) r1 = <address>      ; R1=map_value(map=good.bss,ks=4,vs=8)',
    );
    expect(of('r1 = 0xffffc90001ade000')).toBe('r1 = <address>');
    expect(of('0xffffffff81234567 0xff11000012345678 ffff888106758338')).toBe(
      '<address> <address> <address>',
    );
    const harmless =
      'R0=scalar(smin=0x8000000000000000,umax=0xffffffffffffffff,var_off=(0x0; 0xffffffff00000000)) r2 = 0x7fffffffffffffff r3 = 0xfffffffffffffff8 0xffffffff';
    expect(of(harmless)).toBe(harmless);
  });
});

describe('turns', () => {
  const drain = (t: Turns<string>, may: (c: string) => boolean = () => true): string[] => {
    const out: string[] = [];
    for (let x = t.next(may); x !== undefined; x = t.next(may)) out.push(x);
    return out;
  };

  it('go round the clients, oldest first of each', () => {
    const t = new Turns<string>();
    for (const x of ['a1', 'a2', 'a3', 'b1', 'c1', 'b2']) t.push(x[0]!, x);
    expect(drain(t)).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
    expect(t.length).toBe(0);
  });

  it('pass over clients that may not have one now, and forget what was taken back', () => {
    const t = new Turns<string>();
    for (const x of ['a1', 'a2', 'b1']) t.push(x[0]!, x);
    expect(drain(t, (c) => c !== 'a')).toEqual(['b1']);
    expect(t.remove('a', 'a1')).toBe(true);
    expect(t.remove('a', 'a1')).toBe(false);
    expect(t.length).toBe(1);
    expect(drain(t)).toEqual(['a2']);
  });
});
