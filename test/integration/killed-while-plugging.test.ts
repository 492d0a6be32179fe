/** A daemon that is killed at any point while it plugs or unplugs, and started again at once. A stock QEMU, real taps. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { killStorm } from '../support/kill-storm.ts';
import { whyNoNetwork } from '../support/network.ts';
import { findQemu } from '../support/real-qemu.ts';

const qemu = findQemu();
const why = qemu ? whyNoNetwork() : 'no QEMU: run the lab once';
const KILLS = Number(process.env['HT_TEST_KILLS'] ?? 30);
const SEED = Number(process.env['HT_TEST_SEED'] ?? Date.now() % 1e6);
const LIFE_MS = 250;

describe.skipIf(why !== undefined)(`killed while plugging${why ? ` (skipped: ${why})` : ''}`, () => {
  const bridge = `htk${process.pid}`;
  beforeEach(() => {
    execFileSync('ip', ['link', 'add', bridge, 'type', 'bridge']);
  });
  afterEach(() => {
    execFileSync('ip', ['link', 'del', bridge]);
  });

  it(`QEMU lives through ${KILLS} kills with an immediate start, and keeps nothing after the last detach`, {
    timeout: 60_000 + KILLS * 3000,
  }, async () => {
    if (!qemu) return;
    const report = await killStorm(qemu, {
      kills: KILLS,
      bridge,
      lifeMs: LIFE_MS,
      seed: SEED,
      onProgress: (n) => {
        if (KILLS > 100 && n % 50 === 0) process.stdout.write(`${n} of ${KILLS} killed\n`);
      },
    });
    if (KILLS > 100) process.stdout.write(`${JSON.stringify({ seed: SEED, ...report })}\n`);
    const nothing = { objects: [], devices: [], chardevs: [], network: '', fds: report.fdsBefore };
    expect(report.left, `seed ${SEED}`).toEqual(nothing);
    expect(report.errors).toBe('');
    expect(readdirSync(`/sys/class/net/${bridge}/brif`)).toEqual([]);
    // it was worth something: the arena was in use, and went
    expect(Math.min(report.turns, report.mapped, report.ejected), JSON.stringify(report)).toBeGreaterThan(0);
  });
});
