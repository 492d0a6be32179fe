/** The daemon's checking thread as it is started there. */
import path from 'node:path';
import { expect, it } from 'vitest';
import { checkObject } from '../../src/host/admission/check.ts';
import { Checker } from '../../src/host/daemon/checker.ts';
import { compiledSources } from '../support/compiled.ts';
import { buildObject, call, slowPrograms } from '../support/elf-builder.ts';

it('the checking thread gives the verdicts of checkObject', async () => {
  await using checker = new Checker({
    timeoutMs: 20_000,
    threadPath: path.join(compiledSources(), 'host/daemon/check-thread.js'),
  });
  const objects = [buildObject(), buildObject({ code: [call(4)] }), slowPrograms(8), Uint8Array.of(1, 2, 3)];
  const limits = { elfBytes: 100_000, programs: 8, maps: 1, mapBytes: 1, instructions: 10_000 };
  for (const options of [{ policy: { cpus: 4 } }, { policy: { cpus: 1, hooks: [] }, limits }])
    for (const elf of objects) expect(await checker.check(elf, options)).toEqual(checkObject(elf, options));
  const ruleOf = async (elf: Uint8Array): Promise<unknown> =>
    (await checker.check(elf, { policy: { cpus: 4 } })).refusals[0]?.rule;
  expect([await ruleOf(buildObject()), await ruleOf(buildObject({ code: [call(4)] }))]).toEqual([
    undefined,
    'helper',
  ]);
});
