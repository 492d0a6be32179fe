import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
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
});
