/** Frames of network devices, from one file of the kernel's. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { framesByDevice } from '../../../../src/host/nics/tap.ts';

const sysfs = (file: string): number =>
  Number(readFileSync(`/sys/class/net/lo/statistics/${file}`, 'latin1'));

it('are those that the kernel tells of each device by itself', () => {
  const [before, frames, after] = [sysfs('rx_bytes'), framesByDevice().get('lo'), sysfs('rx_bytes')];
  expect(frames?.map((f) => f.direction)).toEqual(['sent', 'received']);
  const sent = frames?.[0]?.counts;
  expect(sent?.bytes).toBeGreaterThanOrEqual(before);
  expect(sent?.bytes).toBeLessThanOrEqual(after);
  expect(frames?.[1]?.counts.packets).toBeGreaterThanOrEqual(0);
  expect([sent?.errors, sent?.dropped]).toEqual([sysfs('rx_errors'), sysfs('rx_dropped')]);
});

it('are none of a device that is not there', () => {
  expect(framesByDevice().get('missing0')).toBeUndefined();
});
