/** `npm test` of a fresh clone on Debian 13, as root and as an ordinary user: what needs root is skipped there. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { whyNoRoot } from '../support/debian-root.ts';
import { debian13, USERS } from '../support/debian13.ts';

const why = whyNoRoot();
/** As CI has. */
const TESTS_MS = 5_400_000;
/** To make the clone and to end what is late. */
const AROUND_MS = 300_000;

let machine: ReturnType<typeof debian13>;
describe.skipIf(why !== undefined)(`on Debian 13${why === undefined ? '' : ` (skipped: ${why})`}`, () => {
  beforeAll(() => {
    machine = debian13();
  });
  afterAll(() => machine?.remove());

  it.each(USERS)(
    'npm test of a fresh clone passes as $user',
    async (user) => {
      const r = await machine.run(user, 'npm test', TESTS_MS);
      const [, passed] = /^(\d+) passed, 0 failed/m.exec(r.stdout) ?? [];
      expect(Number(passed), `${r.stdout.slice(-4000)}\n${r.stderr.slice(-4000)}`).toBeGreaterThan(1000);
      expect(r.status).toBe(0);
    },
    TESTS_MS + AROUND_MS,
  );
});
