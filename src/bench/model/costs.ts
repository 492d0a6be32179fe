/**
 * What others have measured on hardware: the costs that `bench model` multiplies our counts with. Nothing here was chosen by how
 * well the model fits; `used` says what for. docs/reproduction.md shows the table.
 */

/** A figure with the least and the greatest that is plausible for it. */
export interface Spread {
  value: number;
  low: number;
  high: number;
}

export interface PublishedCost extends Spread {
  id: string;
  what: string;
  unit: 'us' | 'cycles' | 'cycles an instruction' | 'GHz';
  /** Processor it was measured on. */
  machine: string;
  source: string;
  /** Part that it has in the model; undefined: only shown beside it. */
  used?: string;
}

const PAPER = 'Ben Zur et al., "Accelerating Nested Virtualization with HyperTurtle", USENIX ATC 2025';
const ROBOT = 'kernel test robot, report';

export const PUBLISHED_COSTS = [
  {
    id: 'paper-cpuid',
    what: 'CPUID of a guest that is not nested: exit, KVM, entry',
    value: 0.78,
    low: 0.78,
    high: 0.78,
    unit: 'us',
    machine: 'Xeon Silver 4216 (Cascade Lake)',
    source: PAPER,
    used: 'an exit, value',
  },
  {
    id: 'splitx-direct',
    what: 'direct cost of an exit: out and back, nothing done',
    value: 2000,
    low: 2000,
    high: 2000,
    unit: 'cycles',
    machine: 'Xeon X5570, 2.93 GHz (Nehalem), Linux 2.6.34',
    source: 'Landau et al., "SplitX: Split Guest/Hypervisor Execution on Multi-Core", WIOV 2011',
    used: 'an exit, least: 0.68 us',
  },
  {
    id: 'unit-tests-intel',
    what: "CPUID in kvm-unit-tests' vmexit test",
    value: 3000,
    low: 3000,
    high: 4000,
    unit: 'cycles',
    machine: 'Emerald Rapids',
    source: 'Linux commit b0b6a8d3be16 (KVM: x86/pmu: Elide WRMSRs when loading guest PMCs)',
    used: 'an exit, greatest: 3,000 cycles at an assumed 3 GHz, 1.0 us',
  },
  {
    id: 'xeon-4216',
    what: 'frequency, base to turbo; the paper does not say which',
    value: 2.59,
    low: 2.1,
    high: 3.2,
    unit: 'GHz',
    machine: 'Xeon Silver 4216 (Cascade Lake)',
    source: "Intel's specification of the processor",
    used: 'frequency',
  },
  {
    id: 'cpi-skylake',
    what: 'page faults of a private mapping (page_fault2), 16 threads; least: without the idle CPUs’ part',
    value: 2.11,
    low: 1.44,
    high: 2.12,
    unit: 'cycles an instruction',
    machine: 'Skylake, 104 threads',
    source: `${ROBOT} 202403251657.f8cbfe2a`,
  },
  {
    id: 'cpi-cooper-lake',
    what: 'the same, 16 processes',
    value: 2.29,
    low: 2.21,
    high: 2.29,
    unit: 'cycles an instruction',
    machine: 'Xeon Platinum 8380H (Cooper Lake)',
    source: `${ROBOT} 202310311001.edbc5817`,
  },
  {
    id: 'cpi-cascade-lake',
    what: 'page faults of a shared file (page_fault3), 16 threads, a lock of theirs contended',
    value: 2.63,
    low: 2.61,
    high: 2.63,
    unit: 'cycles an instruction',
    machine: 'Xeon Gold 6252 (Cascade Lake)',
    source: 'kernel test robot on commit 5df397dec7c4, answer of 7 December 2022',
    used: 'work of a kernel, greatest',
  },
  {
    id: 'cpi-btrfs',
    what: 'a file system at work (stress-ng ioprio on btrfs)',
    value: 1.36,
    low: 1.36,
    high: 1.5,
    unit: 'cycles an instruction',
    machine: 'Core i9-9980XE (Skylake)',
    source: `${ROBOT} 202401291605.e2a21f01`,
    used: 'work of a kernel, least',
  },
  {
    id: 'copy-page',
    what: 'copying a page, which reads one as well: 14.8% of the 10,081 cycles of such a fault',
    value: 1492,
    low: 1492,
    high: 1492,
    unit: 'cycles',
    machine: 'Skylake, 104 threads',
    source: `${ROBOT} 202403251657.f8cbfe2a`,
    used: 'clearing a page, greatest: 0.58 us at 2.59 GHz',
  },
  {
    id: 'store-width',
    what: 'a page in stores of 32 bytes, one each cycle',
    value: 128,
    low: 128,
    high: 128,
    unit: 'cycles',
    machine: 'Skylake and later',
    source: "Intel's optimization reference manual",
    used: 'clearing a page, least: 0.05 us at 2.59 GHz',
  },
  {
    id: 'amd-vmrun',
    what: 'from before VMRUN to behind it, the guest exiting at once',
    value: 1376,
    low: 1344,
    high: 1376,
    unit: 'cycles',
    machine: 'AMD EPYC',
    source: 'LKML, December 2020 (2012.2/00527, KVM: SVM: use vmsave/vmload)',
    used: 'AMD: an exit, least',
  },
  {
    id: 'unit-tests-amd',
    what: "CPUID in kvm-unit-tests' vmexit test",
    value: 5300,
    low: 5300,
    high: 6200,
    unit: 'cycles',
    machine: 'AMD EPYC (Turin)',
    source: 'Linux commit b0b6a8d3be16',
    used: 'AMD: an exit, greatest',
  },
  {
    id: 'evmcs',
    what: 'CPUID of a nested guest, with and without an enlightened VMCS in L1',
    value: 18_890,
    low: 8304,
    high: 18_890,
    unit: 'cycles',
    machine: 'not said',
    source: 'Vitaly Kuznetsov, patches of Linux for enlightened VMCS on Hyper-V, 2018',
  },
] as const satisfies readonly PublishedCost[];

/** What one machine takes, in the terms of the model. */
export interface MachineCosts {
  name: string;
  /** An exit with nothing but KVM's own way in and out: us. */
  exitUs: Spread;
  /** Clearing a page of 4 KiB: us. */
  clearUs: Spread;
  /** Kernels that handle page faults need so many. */
  cyclesPerInstruction: Spread;
  ghz: Spread;
}

type Id = (typeof PUBLISHED_COSTS)[number]['id'];

export function published(id: Id, all: readonly PublishedCost[] = PUBLISHED_COSTS): PublishedCost {
  const found = all.find((c) => c.id === id);
  if (found === undefined) throw new RangeError(`no published cost '${id}'`);
  return found;
}

/** The middle of two figures whose ratio is what is not known. */
const between = (low: number, high: number): Spread => ({ value: Math.sqrt(low * high), low, high });

/** The paper's machine, from the table: no figure of its fault rows has a part in it. */
export function paperMachine(all: readonly PublishedCost[] = PUBLISHED_COSTS): MachineCosts {
  const splitx = published('splitx-direct', all);
  const ghz = between(published('xeon-4216', all).low, published('xeon-4216', all).high);
  const clear = (id: Id): number => published(id, all).value / ghz.value / 1000;
  return {
    name: published('xeon-4216', all).machine,
    exitUs: {
      value: published('paper-cpuid', all).value,
      low: splitx.low / 2930,
      high: published('unit-tests-intel', all).low / 3000,
    },
    clearUs: between(clear('store-width'), clear('copy-page')),
    cyclesPerInstruction: between(published('cpi-btrfs', all).low, published('cpi-cascade-lake', all).high),
    ghz,
  };
}

/** An AMD server, assumed to run at 2.5 to 3.7 GHz: nobody has published what its faults cost, so nothing checks it. */
export function amdMachine(all: readonly PublishedCost[] = PUBLISHED_COSTS): MachineCosts {
  const ghz = between(2.5, 3.7);
  const { cyclesPerInstruction, clearUs } = paperMachine(all);
  const us = (cycles: number): number => cycles / ghz.value / 1000;
  return {
    name: 'an AMD EPYC, 2.5 to 3.7 GHz',
    exitUs: between(us(published('amd-vmrun', all).high), us(published('unit-tests-amd', all).low)),
    cyclesPerInstruction,
    clearUs,
    ghz,
  };
}
