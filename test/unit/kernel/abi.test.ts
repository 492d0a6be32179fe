/** The C headers are the truth: everything that src/kernel mirrors is asked of a C compiler and compared. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import * as arena from '../../../src/kernel/arena.ts';
import * as call from '../../../src/kernel/call.ts';
import * as bpf from '../../../src/kernel/bpf.ts';
import * as exit from '../../../src/kernel/exit.ts';
import * as guest from '../../../src/kernel/guest.ts';
import * as host from '../../../src/kernel/host.ts';
import * as net from '../../../src/kernel/net.ts';
import * as npf from '../../../src/kernel/npf.ts';
import * as ptrace from '../../../src/kernel/ptrace.ts';
import * as sample from '../../../src/kernel/sample.ts';
import * as seccomp from '../../../src/kernel/seccomp.ts';
import type { IoctlRequest } from '../../../src/kernel/ioctl.ts';
import type { Fields, StructCodec } from '../../../src/kernel/struct.ts';

const INCLUDE = path.resolve(import.meta.dirname, '../../../c/include');

type AnyStruct = Pick<StructCodec<Fields>, 'cName' | 'fields' | 'offsets' | 'size'>;
const isStruct = (x: unknown): x is AnyStruct => typeof x === 'object' && x !== null && 'cName' in x;
const isIoctl = (x: unknown): x is IoctlRequest => typeof x === 'object' && x !== null && 'code' in x;

/** What TypeScript believes: C expression -> value. */
function beliefs(): Map<string, bigint> {
  const all = new Map<string, bigint>();
  const modules = [arena, bpf, call, exit, guest, host, net, npf, ptrace, sample, seccomp] as Record<
    string,
    unknown
  >[];
  for (const module of modules) {
    for (const [name, value] of Object.entries(module)) {
      if (isStruct(value)) {
        // libbpf's own header is not needed to build or run anything here
        if (value.cName === bpf.BPF_MAP_CREATE_OPTS.cName) continue;
        const partial = value.cName.startsWith('struct bpf_');
        if (!partial) all.set(`sizeof(${value.cName})`, BigInt(value.size));
        for (const field of Object.keys(value.fields))
          if (field !== 'gpl')
            all.set(`offsetof(${value.cName}, ${field})`, BigInt(value.offsets[field] ?? -1));
      } else if (isIoctl(value)) {
        all.set(value.name, BigInt(value.code));
      } else if (typeof value === 'number' || typeof value === 'bigint') {
        if (name === 'EM_BPF' || name === 'BPF_NAME_MAX') continue;
        all.set(name, BigInt(value));
      }
    }
  }
  for (const [name, value] of Object.entries(seccomp.ASKED)) all.set(`__NR_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(npf.NPF_REASON)) all.set(`HT_NPF_R_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(npf.NPF_COUNT)) all.set(`HT_NPF_C_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(exit.EXIT_REASON)) all.set(`HT_EXIT_R_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(sample.SAMPLE_REASON))
    all.set(`HT_SAMPLE_R_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(sample.SAMPLE_END))
    all.set(`HT_SAMPLE_END_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(sample.SAMPLE_COUNT))
    all.set(`HT_SAMPLE_C_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(call.CALL_REASON)) all.set(`HT_CALL_R_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(call.CALL_COUNT)) all.set(`HT_CALL_C_${name}`, BigInt(value));
  for (const [name, value] of Object.entries(exit.EXIT_KIND))
    all.set(`HT_EXIT_${name.toUpperCase()}`, BigInt(value));
  for (const [name, value] of Object.entries(host.HOOKS))
    all.set(`HT_HOOK_${name.toUpperCase()}`, BigInt(value));
  return all;
}

function program(expressions: Iterable<string>): string {
  return [
    '#include <stdio.h>',
    '#include <stddef.h>',
    '#include <linux/bpf.h>',
    '#include <linux/fcntl.h>',
    '#include <linux/mman.h>',
    '#include <linux/audit.h>',
    '#include <linux/ptrace.h>',
    '#include <linux/seccomp.h>',
    '#include <sys/user.h>',
    '#include <asm/unistd.h>',
    '#include <hyperturtle/arena.h>',
    '#include <hyperturtle/host.h>',
    '#include <hyperturtle/guest.h>',
    '#include <hyperturtle/net.h>',
    'int main(void) {',
    ...Array.from(expressions, (e) => `printf("%s=%llu\\n", "${e}", (unsigned long long)(${e}));`),
    '}',
  ].join('\n');
}

const cc = process.env['CC'] ?? 'cc';
const haveCompiler = spawnSync(cc, ['--version']).status === 0;

describe('the C ABI', () => {
  it.skipIf(!haveCompiler)(
    `is what TypeScript believes it is${haveCompiler ? '' : ` (skipped: no C compiler '${cc}')`}`,
    () => {
      const expected = beliefs();
      expect(expected.size).toBeGreaterThan(150);
      const dir = mkdtempSync(path.join(os.tmpdir(), 'hyperturtle-abi-'));
      try {
        const exe = path.join(dir, 'abi');
        const built = spawnSync(cc, ['-w', '-I', INCLUDE, '-x', 'c', '-', '-o', exe], {
          input: program(expected.keys()),
          encoding: 'utf8',
        });
        expect(built.stderr).toBe('');
        const out = spawnSync(exe, { encoding: 'utf8' }).stdout;
        const found = new Map(
          out
            .trim()
            .split('\n')
            .map((line) => {
              const at = line.lastIndexOf('=');
              return [line.slice(0, at), BigInt(line.slice(at + 1))] as const;
            }),
        );
        expect(Object.fromEntries(found)).toEqual(Object.fromEntries(expected));
      } finally {
        rmSync(dir, { recursive: true });
      }
    },
  );

  it('leaves no word between named fields unnamed', () => {
    for (const s of [
      host.HT_STATS,
      host.HT_RUN,
      npf.HT_NPF_CTX,
      exit.HT_EXIT_CTX,
      exit.HT_EXIT_ARGS,
      call.HT_CALL_CTX,
      call.HT_CALL_ARGS,
      host.HT_VM_CALL_ARG,
      guest.HTG_CALL_ARG,
      guest.HTG_INFO,
      guest.HTG_L2_STATUS_ARG,
    ] as AnyStruct[]) {
      const named = Object.values(s.fields).reduce((sum, f) => sum + f.size, 0);
      expect([s.cName, named]).toEqual([s.cName, s.size]);
    }
  });
});

describe('struct codecs', () => {
  it('give back what was put in, and zero what was left out', () => {
    const bytes = host.HT_RUN.encode({
      hook: 0,
      repeat: 7,
      ctx: npf.HT_NPF_CTX.encode({ gpa: 1n << 63n, vcpu: 3 }),
    });
    expect(bytes.length).toBe(host.HT_RUN.size);
    const back = host.HT_RUN.decode(bytes);
    expect(back.repeat).toBe(7);
    expect(back.ns).toBe(0);
    const ctx = npf.HT_NPF_CTX.decode(back.ctx);
    expect(ctx.gpa).toBe(1n << 63n);
    expect(ctx.vcpu).toBe(3);
  });

  it('read signed fields as signed', () => {
    expect(host.HT_LINK_ARG.decode(host.HT_LINK_ARG.encode({ arena_fd: -1 })).arena_fd).toBe(-1);
  });

  it('refuse a name that does not fit instead of cutting it', () => {
    expect(() => guest.HTG_REGISTER_ARG.encode({ name: 'x'.repeat(32) })).toThrow(/at most 31/);
    expect(() => guest.HTG_REGISTER_ARG.encode({ name: 'a\nb' })).toThrow(/printable/);
    expect(guest.HTG_REGISTER_ARG.decode(guest.HTG_REGISTER_ARG.encode({ name: 'x'.repeat(31) })).name).toBe(
      'x'.repeat(31),
    );
  });

  it('refuse a buffer that is too short', () => {
    expect(() => host.HT_STATS.decode(new Uint8Array(8))).toThrow(/struct ht_stats/);
  });

  it('decode a window of a larger buffer', () => {
    const outer = Buffer.alloc(64 + host.HT_LINK_ARG.size);
    outer.set(host.HT_LINK_ARG.encode({ prog_fd: 12 }), 64);
    expect(host.HT_LINK_ARG.decode(outer.subarray(64)).prog_fd).toBe(12);
  });
});

describe('reasons', () => {
  it('have names, and unknown ones are still told apart', () => {
    expect(npf.npfReasonName(22)).toBe('POOL_EMPTY');
    expect(npf.npfReasonName(30)).toBe('REASON_30');
    expect(npf.countsByReason([0, 5, 0, 0])).toEqual({ LOW_GPA: 5 });
  });
});

describe('the size of an arena', () => {
  it.each([1, 2, 16, 256])('may be %i MiB', (mib) => {
    expect(arena.arenaSizeProblem(mib << 20)).toBeUndefined();
  });
  it.each([0.5, 3, 24, 512, Number.NaN])('may not be %d MiB', (mib) => {
    expect(arena.arenaSizeProblem(mib * (1 << 20))).toMatch(/expected/);
  });
});
