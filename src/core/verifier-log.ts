/** The log of the kernel's verifier as part of an error: `detail.log`, never in the message, which is one line. */
import { isHyperturtleError, messageOf } from './errors.ts';

const LINES = 40;
/** What the verifier and libbpf add behind the reason. */
const REMARKS = /^(processed \d+ insns|verification time|stack depth|-- END PROG LOAD LOG|\s*$)/;

/** The last lines of the log that an error carries, or an empty text. */
export function verifierLog(e: unknown): string {
  const log = isHyperturtleError(e, 'HT_VERIFIER_REJECTED') ? e.detail['log'] : undefined;
  return typeof log === 'string' ? log.trimEnd().split('\n').slice(-LINES).join('\n') : '';
}

/** The message without a log in it, which hosts of versions before this one put there. */
export function firstLine(e: unknown): string {
  const [line = ''] = messageOf(e).split('\n');
  return line.replace(/; end of its log:$/, '');
}

/** The error's message and, of a log, the line that says why: for where the log itself is not shown. */
export function messageWithReason(e: unknown): string {
  const reason = verifierLog(e)
    .split('\n')
    .findLast((line) => !REMARKS.test(line));
  return reason === undefined || reason === '' ? messageOf(e) : `${firstLine(e)}: ${reason.trim()}`;
}
