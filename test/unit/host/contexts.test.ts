/** Contexts of test runs: read strictly, so that a misspelt field is not taken for zero. */
import { describe, expect, it } from 'vitest';
import { answerOf, parseCases } from '../../../src/host/contexts.ts';
import { HT_NPF_CTX } from '../../../src/kernel/npf.ts';

describe('contexts of test runs', () => {
  it('take numbers and hexadecimal text, by the width of the field', () => {
    expect(parseCases('[{"gpa":"0xffffffffffffffff","vcpu":3},{}]')).toEqual([
      [{ gpa: 0xffff_ffff_ffff_ffffn, vcpu: 3 }, {}],
    ]);
  });

  it('may come in cases', () => {
    expect(parseCases('[[{"vcpu":1}],[],[{},{}]]')).toEqual([[{ vcpu: 1 }], [], [{}, {}]]);
  });

  it.each([
    ['{', /not JSON/],
    ['{}', /array expected/],
    ['[[1]]', /context 0: an object/],
    ['[1]', /context 0: an object/],
    ['[{},{"gpas":1}]', /context 1: there is no field 'gpas'/],
    ['[{"reserved":1}]', /no field 'reserved'/],
    ['[{"gpa":-1}]', /gpa: a number/],
    ['[{"gpa":"twelve"}]', /gpa: a number/],
    ['[{"vcpu":4294967296}]', /does not fit 4 bytes/],
  ])('refuse %s', (text, why) => {
    expect(() => parseCases(text)).toThrow(why);
  });
});

describe('answers', () => {
  const zero = HT_NPF_CTX.decode(new Uint8Array(HT_NPF_CTX.size));

  it('give the reason of a pass, and the group of a map', () => {
    expect(answerOf({ ...zero, reason: 22 })).toEqual({ action: 'PASS', reason: 'POOL_EMPTY' });
    expect(
      answerOf({ ...zero, action: 1, first_gfn: 512n, count: 4, words_off: 8192n, template: 7n }),
    ).toEqual({
      action: 'MAP',
      first_gfn: '0x200',
      count: 4,
      words_off: '0x2000',
      template: '0x7',
    });
    expect(answerOf({ ...zero, action: 2 })).toEqual({ action: 'LEARN' });
  });
});
