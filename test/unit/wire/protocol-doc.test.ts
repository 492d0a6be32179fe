/** docs/wire-protocol.md against the code: everything is named in it, and its examples run as one session. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { EXIT_STATUS } from '../../../src/core/exit-status.ts';
import { WIRE_ERRORS, wireFailure } from '../../../src/wire/errors.ts';
import { DEFAULT_LIMITS, TENANT_LIMITS } from '../../../src/wire/limits.ts';
import { Event, METHODS, NOTIFICATIONS } from '../../../src/wire/schema.ts';
import type { MethodName } from '../../../src/wire/schema.ts';
import { LIMITS, LINK, NIC, OBJECT, methods, rawEnds } from '../../support/wire.ts';

const text = readFileSync(new URL('../../../docs/wire-protocol.md', import.meta.url), 'utf8');

/** The text from one heading to the next. */
function section(heading: string): string {
  const from = text.indexOf(`\n${heading}\n`);
  expect(from, `there is a heading '${heading}'`).toBeGreaterThan(0);
  const rest = text.slice(from + heading.length + 2);
  return rest.slice(0, /\n#{2,3} /.exec(rest)?.index);
}

/** Member names of a schema, also of the objects and arrays in it. */
function members(schema: z.core.$ZodType): string[] {
  if (schema instanceof z.ZodObject)
    return Object.entries(schema.shape as Record<string, z.core.$ZodType>).flatMap(([k, s]) => [
      k,
      ...members(s),
    ]);
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodNullable) return members(schema.unwrap());
  if (schema instanceof z.ZodArray) return members(schema.element);
  return [];
}

/** Described where they first appear. */
const KNOWN_ELSEWHERE: Partial<Record<MethodName, string[]>> = {
  hello: members(METHODS.limits.result().shape.limits),
  replace: members(METHODS.load.params()),
};

describe('the text', () => {
  it.each(Object.keys(METHODS) as MethodName[])('names all members of params and result of %s', (method) => {
    const own = section(`### \`${method}\``);
    expect(own).toContain(`"method":"${method}"`);
    const { params, result } = METHODS[method];
    const elsewhere = [...members(METHODS.load.result()), ...members(METHODS.link.result())];
    for (const name of [...members(params()), ...members(result())]) {
      const described = method !== 'load' && method !== 'link' && elsewhere.includes(name) ? text : own;
      if (!KNOWN_ELSEWHERE[method]?.includes(name)) expect(described).toContain(`\`${name}`);
    }
  });

  it('names all kinds of errors with their codes', () => {
    for (const [kind, { code, class: errorClass }] of Object.entries(WIRE_ERRORS)) {
      expect(text).toMatch(new RegExp(`\\| ${code} \\| ${kind} \\|`));
      expect(EXIT_STATUS).toHaveProperty(errorClass);
    }
    const codes = Object.values(WIRE_ERRORS).map((e) => e.code);
    expect(new Set(codes).size).toBe(codes.length);
  });

  it('names all notifications and events', () => {
    const own = section('## Notifications');
    for (const name of Object.keys(NOTIFICATIONS)) expect(own).toContain(`\`${name}\``);
    for (const option of Event().options) {
      const row = own.split('\n').find((l) => l.startsWith(`| \`${option.shape.type.value}\` |`));
      for (const key of Object.keys(option.shape))
        if (!['seq', 'time', 'type'].includes(key)) expect(row).toContain(`\`${key}\``);
    }
  });

  it('says the limits that the code has', () => {
    for (const n of [
      TENANT_LIMITS.maxFrameBytes,
      TENANT_LIMITS.maxValues,
      TENANT_LIMITS.requestsPerSecond,
      TENANT_LIMITS.maxInProgress,
    ])
      expect(text).toContain(n.toLocaleString('en-US'));
    expect(text).toContain(`${TENANT_LIMITS.bytesPerSecond >> 20} MiB/s`);
    expect(text).toContain(
      `${DEFAULT_LIMITS.maxQueuedBytes >> 20} MiB; after ${DEFAULT_LIMITS.stallTimeoutMs / 1000} s`,
    );
    expect(text).toContain(`up after ${DEFAULT_LIMITS.maxRequestMs / 1000} s`);
    expect(text).toContain(`otherwise | ${TENANT_LIMITS.maxNoiseAnswers} are answered`);
    const large = Object.entries(METHODS).filter(([, m]) => 'large' in m);
    expect(text).toContain(`(${large.map(([name]) => `\`${name}\``).join(', ')})`);
  });
});

describe('the example session', () => {
  const lines = text
    .split('\n')
    .map((l) => /^ {4}(->|<-) (.*)$/.exec(l))
    .filter((m) => m !== null)
    .map((m) => ({ toL0: m[1] === '->', line: m[2]! }));

  it('runs as it is written, and each answer fits the schema of its method', async () => {
    const { raw } = rawEnds({ limits: TENANT_LIMITS, methods: tenant() });
    const asked = new Map<unknown, string>();
    for (const { toL0, line } of lines) {
      if (toL0) {
        raw.sendText(`${line}\n`);
        const id = /"id":(\d+)/.exec(line)?.[1];
        const method = /"method":"([a-z.]+)"/.exec(line)?.[1];
        if (id !== undefined && method !== undefined) asked.set(Number(id), method);
        continue;
      }
      const expected = JSON.parse(line) as Record<string, unknown>;
      expect(await raw.next()).toEqual(expected);
      const method = asked.get(expected['id']) as MethodName;
      if ('result' in expected)
        expect(METHODS[method].result().safeParse(expected['result']).error).toBeUndefined();
      const { method: name, params } = expected;
      if (typeof name === 'string')
        expect(NOTIFICATIONS[name as keyof typeof NOTIFICATIONS]().safeParse(params).error).toBeUndefined();
    }
    expect(raw.received).toEqual([]);
    for (const method of Object.keys(METHODS)) expect([...asked.values()]).toContain(method);
  });
});

/** A daemon that has the answers of the example. */
function tenant(): ReturnType<typeof methods> {
  let value = 'BwAAAA==';
  const none = { objects: 0, programs: 0, links: 0, maps: 0, mapBytes: 0, watches: 0, nics: 0 };
  return methods({
    limits: () => ({
      limits: LIMITS,
      used: none,
      hooks: [
        {
          name: 'npf',
          instructions: 16384,
          programTypes: ['raw_tracepoint_writable'],
          mapTypes: ['array', 'hash'],
          helpers: ['map_lookup_elem'],
        },
      ],
      signature: 'optional',
    }),
    load: ({ name, elf }, { signal }) => {
      const bytes = Buffer.from(elf, 'base64');
      if (!bytes.subarray(0, 4).equals(Buffer.from('\x7fELF')))
        throw wireFailure(
          'REFUSED',
          `an ELF file is expected, ${bytes.length} bytes of something else found`,
          {
            rule: 'elf',
          },
        );
      if (name === 'npf') return { object: OBJECT, existed: false };
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('aborted'))));
    },
    replace: () => ({ object: { ...OBJECT, programs: [], maps: [] }, kept: ['state'], created: [] }),
    link: () => ({ link: LINK, existed: false }),
    call: ({ words = [] }) => ({ answered: true, results: ['0x0', words[2] ?? '0x0', '0x0', '0x0'] }),
    list: () => ({
      vm: 'tenant1',
      arena: { bytes: 16777216, state: 'plugged', device: '/dev/hyperturtle-arena0' },
      objects: [],
      links: [LINK],
    }),
    stats: () => ({
      hooks: [
        {
          hook: 'npf',
          linked: true,
          object: 'npf',
          program: 'npf',
          runs: 1200,
          handled: 1100,
          entries: 8800,
          learned: 4,
          passed: 100,
          reasons: { no_template: 60, pool_empty: 40 },
        },
      ],
    }),
    'map.get': () => ({ value }),
    'map.set': (p) => {
      value = p.value;
      return {};
    },
    'map.delete': () => ({ existed: true }),
    'map.dump': () => ({ entries: [{ key: 'AAAAAA==', value }], cursor: 'AAAAAA==' }),
    'map.watch': (_, { session }) => {
      setImmediate(() =>
        session.notify('map.changed', {
          watch: 1,
          changes: [{ key: 'AAAAAA==', value: 'CQAAAA==' }],
          dropped: 0,
        }),
      );
      return { watch: 1 };
    },
    'map.unwatch': () => ({}),
    events: ({ since = 0 }, { session }) => {
      const seq = since;
      setImmediate(() =>
        session.notify('event', {
          seq,
          time: '2026-11-22T10:00:02.000Z',
          type: 'object.unloaded',
          object: 'npf',
        }),
      );
      return { next: seq + 1 };
    },
    unlink: () => ({}),
    unload: () => ({}),
    'nic.add': () => ({ nic: NIC, existed: false }),
    'nic.list': () => ({ nics: [], networks: [{ name: 'lan', kind: 'tap', mtu: 1500 }], free: 4 }),
    'nic.del': () => ({ existed: true }),
    report: () => ({ nextMs: 10_000 }),
    doctor: () => ({
      findings: [
        {
          level: 'warn',
          what: "L0's kernel 6.1.0-42 has a known bug in nested KVM",
          mend: 'update to 6.1.177 or later',
        },
      ],
    }),
  });
}
