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

  it.each([
    ['--large-frames 256 --l1-memory 512', /^--large-frames 256: at most half of --l1-memory, 128 of 2 MiB/],
    [
      '--large-frames all',
      /^--large-frames, if not 'auto': a whole number from 0 to 256 expected, 'all' found$/,
    ],
    ['--mib 1024', /^an L2 of \d+ MiB expects more memory in L1 than 2048 MiB: --l1-memory$/],
    ['--mib 32 --l2-memory 64', /^L2 with 64 MiB has no room to touch 32 MiB in four orders/],
    ['--count --variants l1', /^--count: one of the l2 variants expected/],
  ])('refuses what no lab could measure: %s', async (args, message) => {
    const e = await bench(...args.split(' ')).catch((err: unknown) => err);
    expect(e).toMatchObject({ code: 'HT_USAGE' });
    expect(String((e as Error).message)).toMatch(message);
  });
});
