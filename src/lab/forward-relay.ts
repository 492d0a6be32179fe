/** The end of `lab forward` inside L0 or L1, started by forward.ts: arguments are the port's device, a TCP port, and a word that begins. */
import net from 'node:net';
import { PortStream } from '../guest/agent/port.ts';
import { isHyperturtleError } from '../core/errors.ts';
import { writeOut } from '../core/output.ts';
import { waitFor } from '../core/wait.ts';
import { Forwarder, GONE_MS } from './forward-frames.ts';
import { GREETING_MS, READY, untilWord } from './forward-greeting.ts';

const [device = '', port = '', word = ''] = process.argv.slice(2);
// an earlier relay whose other end was killed goes after a while
const stream = await waitFor(
  `${device}: another relay to end`,
  () => {
    try {
      return PortStream.open(device);
    } catch (e) {
      if (isHyperturtleError(e, 'HT_BUSY')) return undefined;
      throw e;
    }
  },
  { timeoutMs: GONE_MS + 5000, intervalMs: 500 },
);
writeOut(READY);
await untilWord(stream, word, GREETING_MS);
stream.write(word);
new Forwarder(stream, {
  dial: () => net.connect({ host: '127.0.0.1', port: Number(port), allowHalfOpen: true }),
  onEnd: (why) => {
    writeOut(`${why}\n`);
    process.exit();
  },
});
