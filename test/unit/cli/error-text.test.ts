/** What a person reads of an error that ended a command. */
import { describe, expect, it } from 'vitest';
import { errorText } from '../../../src/cli/shared/error-text.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { messageWithReason } from '../../../src/core/verifier-log.ts';
import { fromWireError, toWireError } from '../../../src/wire/errors.ts';

const LOG = [
  '0: (b7) r0 = 0',
  '1: (85) call bpf_probe_read#4',
  'unknown func bpf_probe_read#4',
  'processed 2 insns (limit 1000000)',
];
const refused = (message: string): HyperturtleError =>
  new HyperturtleError('HT_VERIFIER_REJECTED', message, { detail: { log: `${LOG.join('\n')}\n` } });
const MESSAGE = "object 'x': the kernel's verifier refused a program (EINVAL)";

describe("the verifier's log of a refused program", () => {
  it.each([
    ['of this machine', refused(MESSAGE)],
    ['of a host', fromWireError(toWireError(refused(MESSAGE)))],
    // whose messages had the end of the log in them
    [
      'of a host of an earlier version',
      fromWireError(toWireError(refused(`${MESSAGE}; end of its log:\n${LOG.join('\n')}`))),
    ],
  ])('is printed once: %s', (_, e) => {
    const lines = errorText(e).trimEnd().split('\n');
    expect(lines).toEqual([...LOG.map((l) => `  | ${l}`), `hyperturtle: ${MESSAGE}`]);
  });

  it('is its last complaint where there is one line for all', () => {
    expect(messageWithReason(refused(MESSAGE))).toBe(`${MESSAGE}: unknown func bpf_probe_read#4`);
    expect(messageWithReason(new Error('no log'))).toBe('no log');
  });
});

describe('an error', () => {
  it('is one line, and what others said in it does not pass for our own lines', () => {
    const text = errorText(
      new HyperturtleError('HT_COMMAND_FAILED', 'qemu: status 1: a\nhyperturtle: all is fine\n'),
    );
    expect(text).toBe('hyperturtle: qemu: status 1: a\n    hyperturtle: all is fine\n');
  });

  it('of a configuration is a line for each problem', () => {
    const problems = ['f:1:1: a', 'f:2:1: b'];
    expect(errorText(new HyperturtleError('HT_CONFIG', problems.join('\n'), { detail: { problems } }))).toBe(
      'hyperturtle: f:1:1: a\nhyperturtle: f:2:1: b\n',
    );
  });
});
