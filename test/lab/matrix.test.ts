/** `hyperturtle bench matrix --quick`: one cell of each kernel in turn, each in a lab of its own. */
import { expect, it } from 'vitest';
import { runMatrix } from '../../src/bench/matrix/run.ts';
import type { MatrixCell } from '../../src/bench/matrix/run.ts';
import { TRIED_SERIES } from '../../src/core/nested-kvm.ts';
import { createProgress } from '../../src/core/progress.ts';

it.each(TRIED_SERIES)('first touches are answered in L0 on %s', async (kernel) => {
  const cells: MatrixCell[] = [];
  await runMatrix({
    ...{ kernels: [kernel], vendors: ['amd'], hooks: ['npf'], progress: createProgress() },
    onCell: (cell) => void cells.push(cell),
  });
  expect(cells).toMatchObject([{ kernel, vendor: 'amd', hook: 'npf', state: 'run' }]);
  process.stdout.write(`  ${cells[0]!.found}\n`);
});
