import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { imageAboutSchema } from '../../../src/guest/run/about.ts';
import { aboutImage } from '../../../src/lab/l2-image.ts';
import { L2_IMAGES, L2_IMAGE_NAMES } from '../../../src/lab/l2-image-specs.ts';
import { Crc64, REDIS_VALUE_BYTES, writeRedisSnapshot } from '../../../src/lab/redis-snapshot.ts';

describe('images of nested guests', () => {
  test('are those that were asked for, each with a service that can be asked', () => {
    expect(L2_IMAGE_NAMES).toEqual([
      ...['bash', 'bash-debian', 'java', 'node', 'python', 'pandas', 'memcached'],
      ...['redis', 'redis-snapshot', 'nginx'],
    ]);
    for (const name of L2_IMAGE_NAMES) {
      const about = imageAboutSchema().parse(aboutImage(name));
      expect(about.service?.expect, name).not.toBe('');
    }
  });

  test('that do not exist are refused with those that do', () => {
    expect(() => aboutImage('cobol')).toThrow(/there are bash, .*nginx/);
    expect(() => aboutImage('toString')).toThrow(/there are/);
  });

  test('write files and links inside of themselves only', () => {
    for (const { files, links } of Object.values(L2_IMAGES))
      for (const p of [...Object.keys(files ?? {}), ...Object.keys(links ?? {})])
        expect(path.posix.normalize(p)).toMatch(/^(?!\.\.|\/)/);
  });
});

describe("a snapshot of Redis's", () => {
  test("has Redis's own checksum", () => {
    // the check value in crc64.c of Redis
    expect(new Crc64().update(Buffer.from('123456789')).value).toBe(0xe9c6d914c4b8d9can);
  });

  test('holds as many values as were asked for, ends where it must, and is the same each time', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'rdb-'));
    try {
      const [a, b] = [path.join(dir, 'a'), path.join(dir, 'b')];
      await writeRedisSnapshot(a, 1);
      await writeRedisSnapshot(b, 1);
      const rdb = readFileSync(a);
      expect(rdb.equals(readFileSync(b))).toBe(true);
      let at = 9 + 2 + 1;
      expect(rdb.toString('latin1', 0, 9)).toBe('REDIS0009');
      const length = (): number => {
        const first = rdb[at++]!;
        if (first >> 6 === 0) return first;
        return first >> 6 === 1 ? ((first & 63) << 8) | rdb[at++]! : NaN;
      };
      const keys = length();
      expect([keys, length()]).toEqual([(1 << 20) / REDIS_VALUE_BYTES, 0]);
      for (let n = 0; n < keys; n++) {
        expect(rdb[at++]).toBe(0);
        const key = length();
        expect(rdb.toString('latin1', at, at + key)).toBe(`key:${n}`);
        at += key;
        expect(length()).toBe(REDIS_VALUE_BYTES);
        at += REDIS_VALUE_BYTES;
      }
      expect(rdb[at++]).toBe(0xff);
      expect(rdb.readBigUInt64LE(at)).toBe(new Crc64().update(rdb.subarray(0, at)).value);
      expect(at + 8).toBe(rdb.length);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
