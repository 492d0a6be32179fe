/** The two ends of `lab forward`: how each knows that the other is there. */
import { duplexPair } from 'node:stream';
import { afterEach, expect, it } from 'vitest';
import { sleep, waitFor } from '../../../src/core/wait.ts';
import { Forwarder } from '../../../src/lab/forward-frames.ts';
import { untilWord } from '../../../src/lab/forward-greeting.ts';

const ends: Forwarder[] = [];
afterEach(() => {
  for (const f of ends.splice(0)) f.end('the test is over');
});

function forwarder(...of: ConstructorParameters<typeof Forwarder>): void {
  ends.push(new Forwarder(...of));
}
const nobody = (): never => {
  throw new Error('nothing is dialed here');
};

it('an end that is asked for a sign of life gives it at once, whatever its own clock does', async () => {
  const [here, there] = duplexPair();
  const why: string[] = [];
  // its own signs would come each two seconds: later than this end waits
  forwarder(there, { dial: nobody, onEnd: () => {} });
  forwarder(here, { goneMs: 400, onEnd: (w) => void why.push(w) });
  await sleep(1200);
  expect(why).toEqual([]);
});

it('an end that is silent is gone after the time that was said, and that is told', async () => {
  const [here] = duplexPair();
  const why: string[] = [];
  forwarder(here, { goneMs: 200, onEnd: (w) => void why.push(w) });
  await waitFor('its end', () => why[0], { timeoutMs: 10_000 });
  expect(why).toEqual(['no sign of life for 0.2 s']);
});

it('who waits for a word says that it did not come', async () => {
  const [here, there] = duplexPair();
  there.write('what others sent');
  await expect(untilWord(here, '### word', 50)).rejects.toMatchObject({ code: 'HT_TIMEOUT' });
});
