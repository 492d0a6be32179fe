import { expect, test } from 'vitest';
import {
  deviceUse,
  elsewhereCounter,
  isOfKata,
  largestMemory,
  memoryText,
  turtlefsDevices,
  turtlefsMount,
  vmNameOf,
} from '../../../../src/guest/agent/vms.ts';

const MOUNTS = [
  '25 30 0:23 / /proc rw,nosuid - proc proc rw',
  '61 30 0:45 / /run/hyperturtle/ram rw,relatime shared:33 - turtlefs none rw',
].join('\n');

test('a mapping is of turtlefs when its device number is; /proc writes that in hexadecimal', () => {
  const devices = turtlefsDevices(MOUNTS);
  expect([...devices]).toEqual(['0:45']);
  const maps =
    '7f0000000000-7f0010000000 rw-s 00000000 00:2d 17                         /run/hyperturtle/ram/l2a\n';
  expect(deviceUse(maps, devices)).toBe('shared');
  expect(deviceUse(maps.replace('00:2d', '00:45'), devices)).toBe('none');
  expect(turtlefsMount(MOUNTS)).toBe('/run/hyperturtle/ram');
});

test('a private mapping is told from a shared one, which counts when there are both', () => {
  const line = (rights: string): string =>
    `7f0000000000-7f0010000000 ${rights} 00000000 00:2d 17  /ram/l2a\n`;
  const devices = turtlefsDevices(MOUNTS);
  expect(deviceUse(line('rw-p'), devices)).toBe('private');
  expect(deviceUse(line('rw-p') + line('rw-s'), devices)).toBe('shared');
});

test("a guest's name is QEMU's, cut to what the module keeps", () => {
  expect(vmNameOf(['qemu', '-name', 'guest=web-1,debug-threads=on'])).toBe('web-1');
  expect(vmNameOf(['qemu', '-name', 'a b\nc'])).toBe('a_b_c');
  expect(vmNameOf(['qemu', '-name', 'x'.repeat(40)])).toHaveLength(31);
  expect(vmNameOf(['qemu', '-name', 'debug-threads=on,guest=web-1'])).toBe('web-1');
  expect(vmNameOf(['qemu', '-name', 'debug-threads=on'])).toBeUndefined();
  expect(vmNameOf(['qemu', '-name', 'guest=a,,b,process=c'])).toBe('a,b');
  expect(vmNameOf(['cloud-hypervisor'])).toBeUndefined();
});

test("where a guest's memory is: the kind that most of what can be written is of", () => {
  const line = (mib: number, rights: string, name: string): string =>
    `7f0000000000-${(0x7f0000000000 + mib * 2 ** 20).toString(16)} ${rights} 00000000 00:01 17  ${name}\n`;
  const heap = line(8, 'rw-p', '[heap]') + line(90, 'r--p', '/usr/lib/libc.so');
  expect(largestMemory(heap + line(256, 'rw-s', '/memfd:ch_ram (deleted)'))).toEqual({
    where: 'a memfd',
    bytes: 256 << 20,
  });
  const shm = largestMemory(heap + line(2048, 'rw-s', '/dev/shm/qemu_back_mem.x (deleted)'));
  expect(memoryText(shm)).toBe(' (its largest is 2048 MiB of files in /dev/shm)');
  expect(largestMemory(line(64, 'rw-p', '') + line(64, 'rw-p', ''))).toEqual({
    where: 'anonymous memory',
    bytes: 128 << 20,
  });
  expect(largestMemory(line(64, 'rw-s', '/dev/hugepages/x'))?.where).toBe('huge pages');
  expect(memoryText(largestMemory(''))).toBe('');
});

test("a VMM is Kata's when it was given a directory of Kata's", () => {
  expect(isOfKata(['qemu', '-qmp', 'unix:path=/run/vc/vm/0a/qmp.sock,server=on'])).toBe(true);
  expect(isOfKata(['cloud-hypervisor', '--api-socket', '/run/kata/0a/root/ch-api.sock'])).toBe(true);
  expect(isOfKata(['qemu', '-drive', 'file=/home/run/kata/x'])).toBe(false);
});

test('VMs whose memory is elsewhere are counted, and not again before the time', () => {
  let looks = 0;
  const all = (): { pid: number; turtlefs: 'none' | 'private' | 'shared' }[] => {
    looks += 1;
    return [
      { pid: 1, turtlefs: 'none' },
      { pid: 2, turtlefs: 'private' },
      { pid: 3, turtlefs: 'shared' },
    ];
  };
  const often = elsewhereCounter(60_000, all);
  expect([often(), often(), looks]).toEqual([2, 2, 1]);
  const always = elsewhereCounter(-1, all);
  expect([always(), always(), looks]).toEqual([2, 2, 3]);
});
