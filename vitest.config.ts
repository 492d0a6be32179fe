import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { patienceFor } from './src/lab/kernel-name.ts';
import { LongestFirst } from './test/support/longest-first.ts';

/** A lab keeps one CPU busy: L0 has one. So two test files at a time. */
const emulators = { maxWorkers: 2, sequence: { groupOrder: 1 } } as const;
/** Of vitest's own accord one core would be left idle, which is half a machine with two. */
const maxWorkers = Math.max(2, availableParallelism() - 1);
/** Kernels with sanitizers are several times slower. */
const patience = patienceFor(process.env['HT_TEST_KERNEL'] ?? '');
/** Tests that race our modules. */
const SANITIZED = [
  ...['modules', 'memory', 'races', 'slots', 'large', 'exits', 'call', 'profile', 'tenants'],
  'plugged-memory',
];
/** Too long for every run. */
const SLOW = [
  'emulators',
  'fault-costs',
  'fuzz',
  'interrupted',
  'large-auto',
  'left-out',
  'livepatch',
  'matrix',
  'migrate',
  'numa',
  'plugged-memory',
  'seen-from-l1',
  'snapshot',
  'tutorial',
  'vectoring',
].map((name) => `test/lab/${name}.test.ts`);
/** With larger numbers than in every run (test/support/scale.ts), or only then. */
const SOAKED = [
  ...['modules', 'races', 'profile', 'overruns', 'slots', 'large', 'tenants', 'exits', 'call'],
  ...['arena-again', 'l2-images', 'plugged-memory'],
].map((name) => `test/lab/${name}.test.ts`);
/** The same where no lab is needed. */
const SOAKED_HERE = ['device-plugin', 'vmm'].map((name) => `test/integration/${name}.test.ts`);
const common = {
  restoreMocks: true,
  passWithNoTests: false,
  setupFiles: ['./test/support/ends-with-vitest.ts'],
};

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          ...common,
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          testTimeout: 10_000,
          maxWorkers,
        },
      },
      {
        test: {
          ...common,
          name: 'integration',
          include: ['test/integration/**/*.test.ts'],
          testTimeout: 60_000,
          maxWorkers,
          // some compile eBPF first, beside others
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          ...common,
          name: 'packages',
          include: ['test/packages/**/*.test.ts'],
          testTimeout: 300_000,
          hookTimeout: 2_700_000,
        },
      },
      {
        test: {
          ...common,
          name: 'libvirt',
          include: ['test/libvirt/*.test.ts'],
          testTimeout: 300_000,
          hookTimeout: 900_000,
        },
      },
      {
        test: {
          ...common,
          name: 'debian13',
          include: ['test/debian13/*.test.ts'],
          testTimeout: 3_600_000,
          hookTimeout: 2_700_000,
        },
      },
      {
        test: {
          ...common,
          name: 'lab',
          include: ['test/lab/**/*.test.ts', 'test/intel/smoke.test.ts'],
          exclude: [...SLOW, 'test/lab/l2-images.test.ts'],
          // the longest took 10 minutes with two labs and a compiler on two cores
          testTimeout: 1_500_000 * patience,
          hookTimeout: 1_200_000 * patience,
          ...emulators,
        },
      },
      {
        test: {
          ...common,
          name: 'soak',
          include: [...SOAKED, ...SOAKED_HERE],
          env: { HT_SOAK: '1' },
          testTimeout: 3_000_000 * patience,
          hookTimeout: 1_200_000 * patience,
          ...emulators,
        },
      },
      {
        test: {
          ...common,
          name: 'slow',
          include: [...SLOW, 'test/integration/instructions.test.ts'],
          env: { HT_MUTANTS: process.env['HT_MUTANTS'] ?? '1000000' },
          testTimeout: 900_000,
          hookTimeout: 1_200_000,
          ...emulators,
        },
      },
      {
        test: {
          ...common,
          // on kernels that look for more than the stock ones do (docs/lab.md); one lab at a time keeps two CPUs busy
          name: 'sanitizers',
          include: SANITIZED.map((name) => `test/lab/${name}.test.ts`),
          testTimeout: 1_500_000 * patience,
          hookTimeout: 1_200_000 * patience,
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          ...common,
          name: 'intel',
          include: ['test/intel/*.test.ts'],
          exclude: ['test/intel/smoke.test.ts'],
          testTimeout: 900_000,
          hookTimeout: 1_800_000,
          ...emulators,
        },
      },
    ],
  },
});
