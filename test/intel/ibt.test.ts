/**
 * A processor with Indirect Branch Tracking, and a kernel that enforces it: both modules refuse to load before they call
 * anything by address, in one line, and `doctor` says why.
 */
import { expect, it } from 'vitest';
import { CLI } from '../../src/bench/accelerate.ts';
import { runScript } from '../../src/lab/levels.ts';
import { STEP_MS } from '../support/intel.ts';
import { useLab } from '../support/lab.ts';

// 6.1 as Debian builds it does not know IBT
const lab = useLab({ accel: 'bochs', bochsModel: 'tigerlake', kernel: '6.12' });
const options = { timeoutMs: STEP_MS };

it('is refused by both modules with one line each, which doctor explains', async () => {
  const { l0 } = lab();
  const log = (pattern: string): Promise<string> => runScript(l0, `dmesg | grep '${pattern}'`, options);
  expect(await log('CET detected')).toMatch(/Indirect Branch Tracking enabled/);
  // this model's list of processor states is not what the kernel expects, of which it warns as it boots
  await runScript(l0, 'dmesg -c > /dev/null; echo "IBT is on" > /dev/kmsg', options);
  for (const module of ['hyperturtle_host', 'hyperturtle_guest']) {
    const r = await l0.exec(['insmod', `/payload/modules/${module}.ko`], options);
    expect(r.status, `${module}: ${await lab().serialTail(0)}`).not.toBe(0);
    expect(r.stderr.toString(), module).toMatch(/not supported/i);
  }
  // insmod tries both system calls, so each says it twice
  const said = (await log('hyperturtle: ')).trim().split('\n');
  expect(said.length).toBe(4);
  for (const line of said) expect(line).toMatch(/not loaded: .*\(IBT\).*ibt=off/);
  expect(await runScript(l0, 'lsmod', options)).not.toContain('hyperturtle');
  const doctor = await l0.exec([CLI, 'host', 'doctor'], options);
  expect(doctor.stdout.toString()).toMatch(/enforces Indirect Branch Tracking/);
});
