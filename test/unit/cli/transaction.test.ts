/** Commands that do several things: all of them, or none. And files that are none. */
import { writeFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { errorText } from '../../../src/cli/shared/error-text.ts';
import type { AgentClient } from '../../../src/client/session.ts';
import { readObject } from '../../../src/client/object.ts';
import { setNicPolicy } from '../../../src/client/policy.ts';
import { readObjectFile } from '../../../src/core/object-file.ts';
import { givenSymbols } from '../../../src/client/profile-symbols.ts';
import { loadAndLink } from '../../../src/client/transaction.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { asFileError } from '../../../src/core/files.ts';
import { kernelSymbols } from '../../../src/profile/kernel-image.ts';

let dir: string;
beforeAll(() => (dir = mkdtempSync(path.join(os.tmpdir(), 'ht-dir-'))));
afterAll(() => rmSync(dir, { recursive: true }));
afterEach(() => {
  vi.unstubAllEnvs();
});

/** An agent that has `loaded` objects and refuses what `refuse` says. */
function agent(loaded: readonly string[], refuse: (call: string) => boolean) {
  const calls: string[] = [];
  const there = new Set(loaded);
  let link = 0;
  const interrupted = new AbortController();
  const request = (
    method: string,
    p: { name?: string; object?: string; hook?: string; id?: number },
    how: { signal?: AbortSignal },
  ) => {
    const call = [method, p.name ?? p.object ?? p.id, p.hook].filter((x) => x !== undefined).join(' ');
    if (how.signal?.aborted) return Promise.reject(new HyperturtleError('HT_INTERRUPTED', 'interrupted'));
    calls.push(call);
    if (refuse(call)) return Promise.reject(new HyperturtleError('HT_USAGE', `no: ${call}`));
    if (method === 'load') {
      const existed = there.has(p.name!);
      there.add(p.name!);
      const programs = [{ hook: 'tc-egress' }, { hook: 'tc-ingress' }];
      return Promise.resolve({ object: { name: p.name, programs }, existed });
    }
    if (method === 'unload') there.delete(p.name!);
    return Promise.resolve({ link: { id: ++link }, existed: false });
  };
  const client = { peer: { request }, signal: interrupted.signal, timeoutMs: 1000 } as unknown as AgentClient;
  return { client, calls, there, interrupted };
}
const params = { name: 'fw', elf: '' };
const links = () => [{ hook: 'tc-egress' }, { hook: 'tc-ingress' }];

describe('load --link', () => {
  it('without --target, which the host refuses: the object that it loaded goes again', async () => {
    const { client, there } = agent([], (c) => c.startsWith('link'));
    await expect(loadAndLink(client, params, { links })).rejects.toThrow('no: link fw tc-egress');
    expect([...there]).toEqual([]);
  });

  it('undoes its first link when the second is refused, and leaves an object that was there', async () => {
    const { client, there, calls } = agent(['fw'], (c) => c === 'link fw tc-ingress');
    await expect(loadAndLink(client, params, { links })).rejects.toThrow('no: link fw tc-ingress');
    expect([...there]).toEqual(['fw']);
    expect(calls).toEqual(['load fw', 'link fw tc-egress', 'link fw tc-ingress', 'unlink 1']);
  });

  it('undoes after Ctrl-C too', async () => {
    const { client, there, interrupted } = agent([], () => false);
    const before = (): Promise<void> => Promise.resolve(interrupted.abort());
    await expect(loadAndLink(client, params, { before, links })).rejects.toThrow('interrupted');
    expect([...there]).toEqual([]);
  });

  it("a NIC's policy too: of its two programs none stays when the second is refused, but those that were there", async () => {
    for (const file of ['firewall.bpf.o', 'rate_limiter.bpf.o']) writeFileSync(path.join(dir, file), 'x');
    vi.stubEnv('HYPERTURTLE_BPF', dir);
    const policy = { firewall: { rules: [] }, rateLimit: {} } as never;
    const fresh = agent([], (c) => c.startsWith('link rate-limiter'));
    await expect(setNicPolicy(fresh.client, 'web', policy)).rejects.toThrow('no: link rate-limiter');
    expect([...fresh.there]).toEqual([]);
    const kept = agent(['firewall.web'], (c) => c.startsWith('link rate-limiter'));
    await expect(setNicPolicy(kept.client, 'web', policy)).rejects.toThrow('no: link rate-limiter');
    expect([...kept.there]).toEqual(['firewall.web']);
  });
});

describe('a directory where a file is expected is one line', () => {
  it.each<[string, () => unknown]>([
    ['host dashboard --kernel, profile --kernel', () => kernelSymbols(dir)],
    ['host dashboard --binary', () => givenSymbols({ binary: [dir] })],
    ['check', () => readObjectFile(dir)],
    ['load', () => readObject(dir)],
  ])('%s', async (_, read) => {
    const e: unknown = await Promise.resolve()
      .then(read)
      .catch((x: unknown) => x);
    expect(e).toMatchObject({ code: 'HT_USAGE' });
    expect(errorText(e)).toMatch(/^hyperturtle: \/.* is a directory: .*\n$/);
  });

  it('anything else that is read', () => {
    let e: unknown;
    try {
      readFileSync(dir);
    } catch (x) {
      e = asFileError(x);
    }
    expect(errorText(e)).toMatch(/^hyperturtle: .*: it is a directory: name a file\n$/);
  });

  it('and so is a kernel image that is cut off', async () => {
    const image = Buffer.alloc(0x210);
    image.write('HdrS', 0x202);
    writeFileSync(path.join(dir, 'short'), image);
    await expect(kernelSymbols(path.join(dir, 'short'))).rejects.toMatchObject({ code: 'HT_UNSUPPORTED' });
    const broken = Buffer.alloc(0x600);
    broken.write('HdrS', 0x202);
    broken[0x1f1] = 1;
    broken.writeUInt32LE(64, 0x24c);
    broken.write('1f8b0800', 0x400, 'hex');
    writeFileSync(path.join(dir, 'broken'), broken);
    await expect(kernelSymbols(path.join(dir, 'broken'))).rejects.toMatchObject({ code: 'HT_UNSUPPORTED' });
  });
});
