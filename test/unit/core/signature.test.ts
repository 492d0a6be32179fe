/** Keys and signatures, and the commands that make and use them. */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createPrivateKey } from 'node:crypto';
import os from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { registerCheck } from '../../../src/cli/check/command.ts';
import { registerKeys } from '../../../src/cli/keys/command.ts';
import { generateKeys, readSignature, signObject, verifierOf } from '../../../src/core/signature.ts';
import { buildObject, call } from '../../support/elf-builder.ts';

let dir: string;
let out: string;
const at = (name: string): string => path.join(dir, name);

beforeEach(() => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-keys-'));
  out = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
});
afterEach(() => {
  process.exitCode = undefined;
  rmSync(dir, { recursive: true });
});

async function hyperturtle(...args: string[]): Promise<void> {
  const program = new Command('hyperturtle').exitOverride();
  registerKeys(program);
  registerCheck(program);
  await program.parseAsync(args, { from: 'user' });
}

describe('signatures', () => {
  it('are of these bytes by this key and nothing else', () => {
    const elf = new Uint8Array(100).fill(7);
    const a = generateKeys();
    const b = generateKeys();
    writeFileSync(at('a.pub'), a.publicKey);
    writeFileSync(at('b.pub'), b.publicKey);
    const signature = signObject(elf, createPrivateKey(a.privateKey));
    expect(signature.keyId).toBe(a.keyId);
    expect(verifierOf([at('b.pub'), at('a.pub')])(elf, signature)).toBe(a.keyId);
    const code = (f: () => unknown): unknown => {
      try {
        return f();
      } catch (e) {
        return (e as { code: string }).code;
      }
    };
    expect(code(() => verifierOf([at('b.pub')])(elf, signature))).toBe('HT_SIGNATURE');
    expect(code(() => verifierOf([])(elf, signature))).toBe('HT_SIGNATURE');
    expect(code(() => verifierOf([at('a.pub')])(elf.slice(1), signature))).toBe('HT_SIGNATURE');
    expect(code(() => verifierOf([at('a.pub')])(elf, { ...signature, value: 'AAAA' }))).toBe('HT_SIGNATURE');
    expect(code(() => verifierOf([at('a.pub')])(elf, { ...signature, keyId: b.keyId }))).toBe('HT_SIGNATURE');
    writeFileSync(at('secret'), a.privateKey);
    expect(code(() => verifierOf([at('secret')]))).toBe('HT_CONFIG');
    writeFileSync(at('junk'), 'junk');
    expect(code(() => verifierOf([at('junk')]))).toBe('HT_CONFIG');
    expect(code(() => verifierOf([at('none')]))).toBe('HT_NOT_FOUND');
    expect(code(() => readSignature(at('junk')))).toBe('HT_SIGNATURE');
    expect(readSignature(at('none'))).toBeUndefined();
  });

  it('are made and verified by commands', async () => {
    const elf = at('x.bpf.o');
    writeFileSync(elf, buildObject());
    await hyperturtle('keygen', at('team'), '--json');
    const { keyId } = JSON.parse(out) as { keyId: string };
    expect(keyId).toMatch(/^[0-9a-f]{16}$/);
    expect(statSync(at('team.key')).mode & 0o777).toBe(0o600);
    expect(readFileSync(at('team.pub'), 'utf8')).toMatch(/^-----BEGIN PUBLIC KEY-----/);
    await expect(hyperturtle('keygen', at('team'))).rejects.toMatchObject({ code: 'HT_EXISTS' });
    // nothing of a pair that cannot be made whole, nor a name of nothing
    writeFileSync(at('half.pub'), 'of somebody');
    await expect(hyperturtle('keygen', at('half'))).rejects.toMatchObject({ code: 'HT_EXISTS' });
    expect([existsSync(at('half.key')), readFileSync(at('half.pub'), 'utf8')]).toEqual([
      false,
      'of somebody',
    ]);
    for (const name of ['', `${at('x')}/`])
      await expect(hyperturtle('keygen', name)).rejects.toMatchObject({ code: 'HT_USAGE' });
    await expect(hyperturtle('keygen', at('none/x'))).rejects.toMatchObject({
      message: expect.stringContaining('none/x.key: cannot be written: no such directory') as string,
    });
    await expect(hyperturtle('verify', elf, '--key', at('team.pub'))).rejects.toMatchObject({
      code: 'HT_SIGNATURE',
    });
    await hyperturtle('sign', elf, '--key', at('team.key'));
    out = '';
    await hyperturtle('verify', elf, '--key', at('team.pub'));
    expect(out).toBe(`${elf}  signed with key ${keyId}\n`);
    writeFileSync(elf, buildObject({ code: [call(1)] }));
    await expect(hyperturtle('verify', elf, '--key', at('team.pub'))).rejects.toMatchObject({
      code: 'HT_SIGNATURE',
    });
    await expect(hyperturtle('sign', at('none'), '--key', at('team.key'))).rejects.toMatchObject({
      code: 'HT_NOT_FOUND',
    });
  });
});

describe('hyperturtle check', () => {
  it('explains each refusal and ends with the status of a refusal', async () => {
    writeFileSync(at('bad.o'), buildObject({ code: [call(4)] }));
    await hyperturtle('check', at('bad.o'));
    expect(out).toMatch(
      /^program prog: hook npf, 1 instructions\nrefused by 'helper' in program prog at instruction 0: helper 4 .*\n {4}allowed: .*\n.*: refused\n$/,
    );
    expect(process.exitCode).toBe(19);
  });

  it('says what is admitted, also as JSON', async () => {
    writeFileSync(at('good.o'), buildObject());
    await hyperturtle('check', at('good.o'));
    expect(out).toMatch(/good.o: admitted\n$/);
    expect(process.exitCode).toBeUndefined();
    out = '';
    await hyperturtle('check', at('good.o'), '--hook', 'npf', '--json', '--cpus', '4');
    expect(JSON.parse(out)).toMatchObject({ ok: true, programs: [{ name: 'prog' }], refusals: [] });
    await expect(hyperturtle('check', at('good.o'), '--hook', 'nosuch')).rejects.toMatchObject({
      code: 'HT_USAGE',
    });
    await expect(hyperturtle('check', dir)).rejects.toMatchObject({ code: 'HT_USAGE' });
  });
});
