import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { TENANT_LIMITS } from '../../../src/wire/limits.ts';
import { FRAME_BYTES, badLine, complaint, cuts, pieces } from '../../support/wire-hostile.ts';
import { HELLO, rawEnds } from '../../support/wire.ts';

const LIMITS = { ...TENANT_LIMITS, maxFrameBytes: FRAME_BYTES, requestsPerSecond: 0, bytesPerSecond: 0 };

describe('a bad line', () => {
  it('is refused with a typed error or ignored, as documented, and the next request is answered', async () => {
    const { raw, server } = rawEnds({ limits: LIMITS });
    raw.request('hello', 'hello', HELLO);
    await raw.answerTo('hello');
    raw.received.length = 0;
    let n = 0;
    await fc.assert(
      fc.asyncProperty(badLine, cuts, async (bad, at) => {
        for (const piece of pieces(Buffer.concat([bad.bytes, Buffer.from('\n')]), at)) raw.sendText(piece);
        const id = `after-${++n}`;
        raw.request(id, 'ping');
        expect(await raw.answerTo(id)).toHaveProperty('result');
        expect(complaint(bad, raw.received.splice(0))).toBeUndefined();
      }),
      { numRuns: 1500, seed: 20261122 },
    );
    expect(server.inProgress).toBe(0);
    expect(server.queuedBytes).toBe(0);
  }, 60_000);

  it('of so many in a row is not answered, until a message comes: nobody reads the answers', async () => {
    const { raw, server } = rawEnds({ limits: LIMITS });
    const most = TENANT_LIMITS.maxNoiseAnswers;
    const answered = async (id: string): Promise<number> => {
      raw.request(id, 'hello', { ...HELLO, nonce: `${id}-5f2c9e0b71aa43d8` });
      await raw.answerTo(id);
      return raw.received.splice(0).filter((m) => 'error' in m).length;
    };
    raw.sendText('garbage\n'.repeat(50 * most));
    expect(await answered('first')).toBe(most);
    expect(server.counters.badLines).toBe(50 * most);
    raw.sendText('garbage\n'.repeat(2));
    expect(await answered('second')).toBe(2);
  });

  it('that begins as no message takes no share of the requests: the hello behind 20,000 is soon answered', async () => {
    const { raw, server } = rawEnds({ limits: { ...TENANT_LIMITS, requestsPerSecond: 100 } });
    const t0 = performance.now();
    raw.sendText('\u0000ELF\n\n'.repeat(10_000)); // 20,000 lines, 20 MB by their count
    raw.request('hello', 'hello', HELLO);
    expect(await raw.answerTo('hello')).toHaveProperty('result');
    // 8 MiB at once, 16 MiB a second: of 100 lines a second it would have been 200 s
    expect(performance.now() - t0).toBeLessThan(5000);
    expect(performance.now() - t0).toBeGreaterThan(400);
    expect(server.counters.badLines).toBe(10_000);
  });

  it('that is answered takes its share of the requests, though a line that begins as a message be between', async () => {
    const { raw, server } = rawEnds({ limits: { ...TENANT_LIMITS, requestsPerSecond: 100 } });
    const t0 = performance.now();
    raw.sendText(`{\n${'x\n'.repeat(TENANT_LIMITS.maxNoiseAnswers)}`.repeat(200));
    await vi.waitFor(() => expect(server.counters.badLines).toBeGreaterThan(100), 10_000);
    // 25 at once, 100 a second; 425 at once when only the lines between counted
    expect(performance.now() - t0).toBeGreaterThan(600);
    expect(server.counters.badLines).toBeLessThan(30 + (performance.now() - t0) / 10);
  });
});
