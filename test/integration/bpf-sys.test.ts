/** System calls by FFI against the real kernel: descriptors of other processes, waiting for them, ioctl errors. */
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readlinkSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { OwnedFd, openFds } from '../../src/bpf/fds.ts';
import { takeVm } from '../../src/bpf/kvm.ts';
import { whenReadable } from '../../src/bpf/poll.ts';
import { ioctl, openDevice, pidfdAlive, pidfdGetfd, pidfdOpen } from '../../src/bpf/sys.ts';
import { GuestDevice } from '../../src/guest/device.ts';
import { HostDevice } from '../../src/host/device.ts';
import { ior } from '../../src/kernel/ioctl.ts';

const never = new AbortController().signal;

afterEach(() => {
  expect(openFds()).toEqual([]);
});

describe('a process descriptor', () => {
  it('tells when the process ends', async () => {
    const child = spawn('sleep', ['60']);
    const pidfd = pidfdOpen(child.pid!);
    expect(pidfdAlive(pidfd)).toBe(true);
    const ended = whenReadable(pidfd, AbortSignal.timeout(5000));
    child.kill('SIGKILL');
    await ended;
    await new Promise((resolve) =>
      child.exitCode !== null || child.signalCode ? resolve(0) : child.once('exit', resolve),
    );
    expect(pidfdAlive(pidfd)).toBe(false);
    pidfd.close();
  });

  it('gives a copy of a descriptor of that process', () => {
    const pidfd = pidfdOpen(process.pid);
    const own = openSync('/dev/null', 'r');
    const copy = pidfdGetfd(pidfd, own, 'copy of /dev/null');
    expect(copy.fd).not.toBe(own);
    expect(readlinkSync(`/proc/self/fd/${copy.fd}`)).toBe('/dev/null');
    closeSync(own);
    expect(() => pidfdGetfd(pidfd, own, 'closed one')).toThrow(/closed it/);
    copy.close();
    pidfd.close();
  });

  it('is refused for a process that is not there', () => {
    const gone = spawnSync('true').pid;
    expect(() => pidfdOpen(gone)).toThrow(expect.objectContaining({ code: 'HT_NOT_FOUND' }));
  });

  it('takes no VM from a process that runs none', () => {
    expect(() => takeVm(process.pid)).toThrow(/runs no KVM virtual machine/);
  });
});

describe('waiting', () => {
  it('ends when the other side hangs up', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-fifo-'));
    try {
      const fifo = path.join(dir, 'f');
      expect(spawnSync('mkfifo', [fifo]).status).toBe(0);
      const reader = new OwnedFd(openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK), 'fifo');
      const writer = openSync(fifo, 'w');
      let over = false;
      const waiting = whenReadable(reader, AbortSignal.timeout(5000)).then(() => (over = true));
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(over).toBe(false);
      closeSync(writer);
      await waiting;
      reader.close();
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('ends with the reason of its signal', async () => {
    const pidfd = pidfdOpen(process.pid);
    const stop = new AbortController();
    const waiting = whenReadable(pidfd, stop.signal);
    stop.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    await expect(whenReadable(pidfd, stop.signal)).rejects.toThrow('enough');
    pidfd.close();
  });

  it('cannot begin on what cannot be waited for', async () => {
    const file = new OwnedFd(openSync('/etc/passwd', 'r'), 'a plain file');
    await expect(whenReadable(file, never)).rejects.toThrow(/a plain file cannot be waited for/);
    file.close();
  });
});

describe('devices', () => {
  it('that are missing say which module to load', () => {
    expect(() => HostDevice.open('/dev/no-hyperturtle')).toThrow(/load hyperturtle_host.ko/);
    expect(() => GuestDevice.open('/dev/no-hyperturtle')).toThrow(/load hyperturtle_guest.ko/);
  });

  it('that are something else are refused', () => {
    expect(() => HostDevice.open('/dev/null')).toThrow(expect.objectContaining({ code: 'HT_UNSUPPORTED' }));
    expect(() => GuestDevice.open('/dev/null')).toThrow(expect.objectContaining({ code: 'HT_UNSUPPORTED' }));
  });

  it('get arguments of exactly the size that their request says', () => {
    const file = openDevice('/dev/null', 'never');
    const request = ior('TEST', 0xb7, 1, { size: 8 });
    expect(() => ioctl(file, request, new Uint8Array(7))).toThrow(RangeError);
    expect(() => ioctl(file, request, new Uint8Array(8))).toThrow(/TEST on \/dev\/null: ENOTTY/);
    file.close();
    expect(() => ioctl(file, request, new Uint8Array(8))).toThrow(/after it was closed/);
  });
});
