import { describe, expect, it } from 'vitest';
import { l2Arguments, l2Files, ramPath } from '../../src/guest/l2-spec.ts';
import type { L2Spec, RamKind } from '../../src/guest/l2-spec.ts';

const spec = (change: Partial<L2Spec> = {}): L2Spec => ({
  name: 'a',
  memMib: 256,
  ram: 'tmpfs',
  kernel: '/k',
  initrd: '/i',
  append: 'quiet',
  machine: 'pc',
  console: { kind: 'device', path: '/dev/virtio-ports/x' },
  qemu: 'qemu-system-x86_64',
  ...change,
});
const args = (change: Partial<L2Spec> = {}): string => l2Arguments(spec(change), l2Files('a')).join(' ');

describe('arguments of an L2', () => {
  it('give it shared file memory of the kind that was asked for', () => {
    const memory = (ram: RamKind): string => /-object (\S+)/.exec(args({ ram }))![1]!;
    expect(memory('tmpfs')).toBe('memory-backend-file,id=ram,mem-path=/dev/shm,size=256M,share=on');
    expect(memory('tmpfs-prealloc')).toMatch(/\/dev\/shm.*share=on,prealloc=on$/);
    expect(memory('turtlefs')).toBe(
      'memory-backend-file,id=ram,mem-path=/run/hyperturtle/ram,size=256M,share=on',
    );
    expect(memory('anonymous')).toBe('memory-backend-ram,id=ram,size=256M');
  });

  it('start it stopped, so that it can be registered before its first fault', () => {
    expect(args().split(' ')).toContain('-S');
  });

  it('bring its console to a device or to a socket', () => {
    expect(args()).toContain('-chardev pipe,id=console,path=/dev/virtio-ports/x');
    expect(args({ console: { kind: 'socket', path: '/s' } })).toContain(
      '-chardev socket,id=console,path=/s,server=on,wait=off',
    );
  });

  it('leave out an initrd that is not there', () => {
    expect(args()).toContain('-initrd /i');
    expect(args({ initrd: undefined })).not.toContain('-initrd');
  });

  it('name the RAM file only when somebody else shall map it', () => {
    expect(ramPath(spec({ ram: 'turtlefs' }))).toBe('/run/hyperturtle/ram');
    expect(ramPath(spec({ ram: 'turtlefs', ramFileName: 'a.ram' }))).toBe('/run/hyperturtle/ram/a.ram');
  });

  it('refuse names that would leave the directory, and memory that is no size', () => {
    expect(() => l2Files('../x')).toThrow(/name of an L2/);
    expect(() => l2Files('')).toThrow(/name of an L2/);
    expect(() => args({ memMib: 0.5 })).toThrow(/memory of an L2/);
  });
});
