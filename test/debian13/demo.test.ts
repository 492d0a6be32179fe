/**
 * What a newcomer does on Debian 13: a fresh clone, `npm run demo`, as root and as an ordinary user. The machine is a
 * Debian 13 in a directory, with its own npm and Node.js; all that is written there is thrown away.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { whyNoRoot } from '../support/debian-root.ts';
import { debian13, USERS } from '../support/debian13.ts';

const why = whyNoRoot();
const DEMO_MS = 3_000_000;

let machine: ReturnType<typeof debian13>;
describe.skipIf(why !== undefined)(`on Debian 13${why === undefined ? '' : ` (skipped: ${why})`}`, () => {
  beforeAll(() => {
    machine = debian13();
  });
  afterAll(() => machine?.remove());

  it.each(USERS)('the demo of a fresh clone runs to its end as $user', async (user) => {
    const r = await machine.run(user, 'npm run demo && echo DEMO OK', DEMO_MS);
    expect(r.stdout, r.stderr.slice(-2000)).toContain('DEMO OK');
    expect(r.status).toBe(0);
    expect(r.read('report.html')).toContain('6.12.');
  });
});
