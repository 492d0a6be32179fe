/** Parts of `hyperturtle vmm` that need no process. */
import { expect, it } from 'vitest';
import { findProgram } from '../../../../src/bpf/exec.ts';
import { overFor } from '../../../../src/guest/launch/launch.ts';
import { parseMappings } from '../../../../src/guest/launch/target.ts';
import { nameFromId } from '../../../../src/cli/vmm/command.ts';
import { vmNameIn } from '../../../../src/guest/agent/vms.ts';

const MOUNTS = `24 1 0:22 / /dev/shm rw,nosuid - tmpfs tmpfs rw
31 24 0:27 / /dev/hugepages rw,relatime shared:13 - hugetlbfs hugetlbfs rw,pagesize=2M
`;

it('turtlefs goes over directories that an argument names, and no others', () => {
  const over = (...args: string[]): string[] => overFor(args, MOUNTS);
  expect(over('-m', '256')).toEqual([]);
  expect(over('-object', 'memory-backend-file,id=m,mem-path=/dev/shm,share=on')).toEqual(['/dev/shm']);
  expect(over('--memory-zone', 'id=a,file=/dev/shm/x')).toEqual(['/dev/shm']);
  expect(over('-mem-path', '/dev/hugepages/libvirt')).toEqual(['/dev/hugepages']);
  expect(over('/dev/shmem', '/x/dev/shm', '/dev/hugepages1')).toEqual([]);
});

it('a program is found as a shell finds it', () => {
  const is =
    (...files: string[]) =>
    (file: string) =>
      files.includes(file);
  expect(findProgram('qemu', '/a:/b', is('/b/qemu'))).toBe('/b/qemu');
  expect(findProgram('./qemu', '/a', is('./qemu', '/a/qemu'))).toBe('./qemu');
  expect(findProgram('x', ':/b', is('./x'))).toBe('./x');
  expect(() => findProgram('x', '/a', is())).toThrow('x: no such program in PATH');
});

it('mappings are read as the kernel writes them', () => {
  expect(
    parseMappings(`7f00000000-7f02000000 rw-s 00001000 00:2d 5                          /run/ram/#5 (deleted)
7f02000000-7f02001000 ---p 00000000 00:00 0 
`),
  ).toEqual([
    {
      start: 0x7f00000000,
      end: 0x7f02000000,
      offset: 0x1000,
      device: '00:2d',
      ino: 5,
      name: '/run/ram/#5 (deleted)',
    },
    { start: 0x7f02000000, end: 0x7f02001000, offset: 0, device: '00:00', ino: 0, name: '' },
  ]);
});

it("a guest is named after the id in its VMM's arguments, as Kata's QEMU has it", () => {
  const id = '0123456789abcdef'.repeat(4);
  expect(nameFromId(['--api-socket', `/run/vc/vm/${id}/clh-api.sock`])).toBe(
    'sandbox-0123456789abcdef0123456',
  );
  expect(nameFromId(['--id', id.slice(0, 32)])).toBe('sandbox-0123456789abcdef0123456');
  expect(nameFromId(['--api-sock', '/run/fc.sock', 'deadbeef', `${id}0`])).toBeUndefined();
});

it("a VMM's variable names its guest, in characters and a length that the module takes", () => {
  expect(vmNameIn(['A=1', 'HYPERTURTLE_VM_NAME=web'])).toBe('web');
  expect(vmNameIn(['HYPERTURTLE_VM_NAME=a b' + 'c'.repeat(40)])).toBe('a_b' + 'c'.repeat(28));
  expect(vmNameIn(['HYPERTURTLE_VM_NAME=', 'X=HYPERTURTLE_VM_NAME=no'])).toBeUndefined();
});
