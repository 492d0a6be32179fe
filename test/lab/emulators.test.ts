/** QEMU of the other Debian release, as the machine's emulator and as the hypervisor's: what the demo does, and how long it takes. */
import { describe, expect, it } from 'vitest';
import { withL2 } from '../../src/testbed/l2-session.ts';
import type { L2SessionSpec } from '../../src/testbed/l2-session.ts';
import { runMatrix } from '../../src/bench/matrix/run.ts';
import type { MatrixCell } from '../../src/bench/matrix/run.ts';
import { L2_TICK_ARGUMENTS } from '../../src/testbed/l2-spec.ts';
import { createProgress } from '../../src/core/progress.ts';
import { machineRelease } from '../../src/lab/debian.ts';
import { runScript } from '../../src/lab/levels.ts';
import { TEST_KERNEL, useLab } from '../support/lab.ts';

/** The other release's, its backports', and each of the two halves by itself. */
const EMULATORS: { name: string; qemu?: string; outerQemu?: string }[] =
  machineRelease().codename === 'bookworm'
    ? [
        { name: 'QEMU 10', qemu: '10' },
        { name: 'QEMU 10 outside and 7.2 in L0', outerQemu: '10' },
        { name: 'QEMU 11', qemu: '11' },
      ]
    : [{ name: 'QEMU 7.2', qemu: '7.2' }];

describe.each(EMULATORS)('by $name', ({ qemu, outerQemu }) => {
  const lab = useLab({ qemu, outerQemu });

  it('a nested guest without acceleration boots, with few exits to its VMM', async () => {
    const spec: L2SessionSpec = {
      ...{ name: 'plain', ram: 'tmpfs' as const, memMib: 128, machine: 'pc', port: 0 },
      append: L2_TICK_ARGUMENTS,
    };
    const exits = (): Promise<string> =>
      runScript(lab().l1, 'cd /sys/kernel/debug/kvm; cat mmio_exits irq_exits');
    const [bootMs, [mmio, ticks]] = await withL2(lab(), spec, async (l2) => [
      l2.bootMs,
      (await exits()).split('\n').map(Number),
    ]);
    process.stdout.write(
      `  up after ${(bootMs / 1000).toFixed(1)} s, ${mmio} MMIO exits, ${ticks} interrupts\n`,
    );
    // a console with 31 ports makes 1450
    expect(mmio).toBeLessThan(400);
  });
});

it.each(EMULATORS.filter((e) => e.qemu !== undefined))(
  'first touches are answered in L0 by $name',
  async ({ qemu }) => {
    const cells: MatrixCell[] = [];
    await runMatrix({
      ...{ kernels: [TEST_KERNEL], vendors: ['amd'], hooks: ['npf'], qemu, progress: createProgress() },
      onCell: (cell) => void cells.push(cell),
    });
    expect(cells).toMatchObject([{ hook: 'npf', state: 'run' }]);
    process.stdout.write(`  ${cells[0]!.found}\n`);
  },
);
