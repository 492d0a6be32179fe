import { describe, expect, it } from 'vitest';
import {
  newTroubles,
  parseResults,
  passScript,
  selected,
  selftestProblems,
  selftestTable,
} from '../../../../src/bench/kvm-selftests/run.ts';
import type { SelftestReport } from '../../../../src/bench/kvm-selftests/run.ts';
import { selftestNames } from '../../../../src/lab/kvm-selftests.ts';

const MAKEFILE = `
TEST_PROGS_x86_64 += x86_64/nx_huge_pages_test.sh
TEST_GEN_PROGS_x86_64 = x86_64/cpuid_test
TEST_GEN_PROGS_x86_64 += x86_64/state_test
TEST_GEN_PROGS_x86_64 += dirty_log_test
TEST_GEN_PROGS_EXTENDED_x86_64 += x86_64/nx_huge_pages_test
TEST_GEN_PROGS_aarch64 += aarch64/arch_timer
TEST_GEN_PROGS += $(TEST_GEN_PROGS_$(UNAME_M))
`;

describe("the list of KVM's selftests", () => {
  it('is that of x86-64 in the Makefile of the source', () => {
    expect(selftestNames(MAKEFILE)).toEqual(['x86_64/cpuid_test', 'x86_64/state_test', 'dirty_log_test']);
    expect(selftestNames('TEST_GEN_PROGS_COMMON = steal_time\nTEST_GEN_PROGS_x86 += x86/smm_test\n')).toEqual(
      ['steal_time', 'x86/smm_test'],
    );
  });

  it('names those that do not compile, and can be asked for in part', () => {
    expect(selected('a/one\n!two\n', undefined)).toEqual({ built: ['a/one'], missing: ['two'] });
    expect(selected('a/one\nb\n', ['one', 'x'])).toEqual({ built: ['a/one'], missing: [] });
    const heavy = 'dirty_log_test\ndirty_log_perf_test\nmax_guest_memory_test\n';
    expect(selected(heavy, undefined).built).toEqual(['dirty_log_test']);
    expect(selected(heavy, ['dirty_log']).built).toEqual(['dirty_log_test', 'dirty_log_perf_test']);
    expect(() => selected('a/one\n', ['other'])).toThrow(/no selftest has other/);
  });
});

describe('verdicts', () => {
  it('come from exit statuses: 4 is skip, a signal is a crash, SIGKILL at the deadline is a timeout', () => {
    const out = 'a 0 1.00 2.50\nb 4 2.50 2.60\nc 254 3 4\nd 139 4 5\ne 137 5 65.1\nf 137 66 67\nnoise\n';
    const verdicts = [...parseResults(out, 60)].map(([name, r]) => `${name} ${r.verdict}`);
    expect(verdicts).toEqual(['a ok', 'b skip', 'c fail', 'd crash 11', 'e timeout', 'f crash 9']);
    expect(parseResults(out, 60).get('a')?.seconds).toBe(1.5);
  });

  it('are asked for one after the other, each with its deadline', () => {
    const script = passScript(['x86_64/a', 'b'], 90);
    expect(script).toContain('timeout -s KILL 90 /images/$1');
    expect(script).toMatch(/one x86_64\/a\none b\n$/);
  });

  const fine: Omit<SelftestReport, 'problems'> = {
    kernel: '6.1',
    rows: [
      { name: 'a', without: 'ok', with: 'ok', seconds: { without: 1, with: 1.2 } },
      { name: 'b', without: 'skip', with: 'skip', seconds: { without: 0, with: 0 } },
    ],
    npfRuns: 12,
    troubles: { without: ['L1: WARNING: CPU: N'], with: ['L1: WARNING: CPU: N'] },
  };

  it('that are the same with the hook at work are no problem, nor is what stock kernels say in both', () => {
    expect(selftestProblems(fine)).toEqual([]);
    expect(selftestTable(fine as SelftestReport)).toContain(
      '2 selftests, with our modules 1 ok, 1 skip; npf ran 12',
    );
  });

  it('that differ, words of a kernel that are new, and a hook that never ran are problems', () => {
    const rows = [{ ...fine.rows[0]!, with: 'fail' as const }, fine.rows[1]!];
    expect(selftestProblems({ ...fine, rows })[0]).toMatch(/a: ok without our modules, fail with them/);
    expect(selftestTable({ ...fine, rows, problems: [] })).toMatch(/DIFFERS/);
    const never = [{ ...rows[0]!, again: ['fail' as const, 'fail' as const] }, fine.rows[1]!];
    expect(selftestProblems({ ...fine, rows: never })[0]).toMatch(/fail with them, 3 times/);
    expect(selftestProblems({ ...fine, npfRuns: 0 })[0]).toMatch(/never ran/);
    const troubles = { without: [], with: ['L0: BUG: KASAN'] };
    expect(selftestProblems({ ...fine, troubles })).toEqual(['only with our modules: L0: BUG: KASAN']);
  });

  it('of a program that fails when it is slow are the same when a further run says so', () => {
    const rows = [{ ...fine.rows[0]!, with: 'fail' as const, again: ['fail' as const, 'ok' as const] }];
    expect(selftestProblems({ ...fine, rows })).toEqual([]);
    const table = selftestTable({ ...fine, rows, problems: [] });
    expect(table).toContain('again: fail, ok');
    expect(table).not.toContain('DIFFERS');
  });

  it('are told of new troubles only, with numbers taken out', () => {
    const old = '[ 1.0] WARNING: CPU: 0 PID: 1 at a.c:1\n';
    expect(newTroubles([old, ''], [`${old}[ 2.0] BUG: KASAN: x at 0xffff12\n`, ''])).toEqual([
      'L0: BUG: KASAN: x at N',
    ]);
  });
});
