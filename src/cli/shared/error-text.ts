/** What a person is told of an error that ended a command. */
import { HyperturtleError } from '../../core/errors.ts';
import { firstLine, verifierLog } from '../../core/verifier-log.ts';
import { visibleLine } from '../../core/visible.ts';

const quoted = (text: string): string => (text === '' ? '' : `${text.trimEnd().replace(/^/gm, '  | ')}\n`);

/** One line for what was to be expected, below the log that belongs to it; a stack for a bug. */
export function errorText(e: unknown): string {
  if (!(e instanceof HyperturtleError))
    return `hyperturtle: bug: ${e instanceof Error ? (e.stack ?? e.message) : String(e)}\n`;
  const { tail, problems } = e.detail;
  const log = e.code === 'HT_BOOT_FAILED' && typeof tail === 'string' ? tail : verifierLog(e);
  const lines =
    e.code === 'HT_CONFIG' && Array.isArray(problems)
      ? problems.map((p) => visibleLine(String(p)))
      : // what comes behind a line's end was said by others
        [verifierLog(e) === '' ? e.message.trimEnd().replaceAll('\n', '\n    ') : firstLine(e)];
  return `${quoted(log)}${lines.map((line) => `hyperturtle: ${line}\n`).join('')}`;
}
