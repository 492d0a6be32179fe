/** `bench npf --count` and `--large-frames`: what is refused before a lab is started. */
import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { register } from '../../../src/cli/bench/command.ts';

const bench = async (...args: string[]): Promise<void> => {
  const program = new Command('hyperturtle').exitOverride();
  register(program, '0');
  await program.parseAsync(['bench', 'npf', ...args], { from: 'user' });
};

describe('bench npf', () => {
  it.each([
    ['two CPUs in L1', ['--l1-cpus', '2']],
    ['real time', ['--clock', 'real']],
    ["this machine's processor", ['--accel', 'kvm']],
  ])('counts no instructions with %s', async (_, args) => {
    await expect(bench('--count', ...args)).rejects.toMatchObject({
      code: 'HT_USAGE',
      message: '--count expects --accel tcg, --clock instructions and --l1-cpus 1, as they are unless given',
    });
  });

  it('has no groups of one page where L1 keeps frames of 2 MiB, which come whatever their size', async () => {
    await expect(bench('--large-frames', '8', '--variants', 'l2-group1')).rejects.toMatchObject({
      code: 'HT_USAGE',
      message:
        "--variants: some of l1,l2-vanilla,l2-vanilla-prealloc,l2-anonymous,l2-thp,l2-hugetlb,l2-default expected, 'l2-group1' found",
    });
  });
});
