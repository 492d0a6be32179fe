/**
 * What each test of a lab costs, for those who make them faster: HT_LAB_TIMES names a file to which a line is added for
 * each test, with the seconds of a core that the emulator used, and those that passed. On a busy machine both grow: guests
 * have their ticks by the clock.
 */
import { appendFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeEach, expect } from 'vitest';
import type { Lab } from '../../src/lab/lab.ts';

const TO = process.env['HT_LAB_TIMES'];

export function noteTimes(labOf: () => Lab | undefined): void {
  if (TO === undefined) return;
  let before = { cpu: 0, ms: performance.now() };
  const note = (what: string): void => {
    const lab = labOf();
    if (!lab) return;
    const now = { cpu: lab.emulatorCpuSeconds(), ms: performance.now() };
    const file = path.basename(expect.getState().testPath ?? '');
    const cpu = (now.cpu - before.cpu).toFixed(1);
    const seconds = ((now.ms - before.ms) / 1000).toFixed(1);
    appendFileSync(TO, `${cpu} s of a core, ${seconds} s: ${file}: ${what}\n`);
    before = now;
  };
  let ran = false;
  beforeEach(() => {
    if (!ran) note('set-up');
    ran = true;
  });
  afterEach(({ task }) => note(task.name));
  afterAll(() => note('end'));
}
