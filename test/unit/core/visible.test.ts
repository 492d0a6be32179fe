/** Text of strangers on terminals, in logs and in pictures: names with sequences that act there are shown, not carried out. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { errorText } from '../../../src/cli/shared/error-text.ts';
import { eventText } from '../../../src/cli/events/command.ts';
import { columns } from '../../../src/cli/shared/columns.ts';
import { drawn } from '../../../src/cli/shared/screen.ts';
import { printJson } from '../../../src/cli/shared/values.ts';
import { HyperturtleError } from '../../../src/core/errors.ts';
import { jsonLog } from '../../../src/core/log.ts';
import { writeErr, writeJson, writeOut } from '../../../src/core/output.ts';
import { createProgress } from '../../../src/core/progress.ts';
import { visible, visibleLine } from '../../../src/core/visible.ts';
import { checkObject } from '../../../src/host/admission/check.ts';
import { explain } from '../../../src/host/admission/explain.ts';
import { flameGraph } from '../../../src/profile/flame-graph.ts';
import { folded } from '../../../src/profile/folded.ts';
import { SymbolTable } from '../../../src/profile/symbol-table.ts';
import { formatTable } from '../../../src/report/table.ts';
import { escapeXml } from '../../../src/report/svg.ts';
import { printable } from '../../../src/wire/text.ts';

/** Clears the screen, moves up, sets a title, turns the order around, hides, ends the line, rings. */
const HOSTILE = '\x1b[2J\x1b[1A\x9b31m\x1b]0;title\x07\u202eevil\u200b\u2066\ufeff\ud800\r\b\x7f\u2028';
const LINES = `a\nhyperturtle: admitted\t${HOSTILE}`;
/** Whatever a terminal, or the reader of a line, acts upon. */
const ACTS = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;

afterEach(() => {
  vi.restoreAllMocks();
});

/** What `use` writes to standard output and error. */
function written(use: () => void): string {
  let text = '';
  for (const stream of [process.stdout, process.stderr])
    vi.spyOn(stream, 'write').mockImplementation((chunk) => {
      text += String(chunk);
      return true;
    });
  use();
  vi.restoreAllMocks();
  return text;
}

const fixture = (name: string): Buffer =>
  readFileSync(new URL(`../../support/cases/${name}`, import.meta.url));
const frame = { name: HOSTILE, module: HOSTILE, kernel: false, address: 1n };

/** Each place where text of a file, guest, host or kernel goes out: in any command, it is one of these. */
const PLACES: Record<string, () => string> = {
  'standard output': () => written(() => writeOut(LINES)),
  'standard error': () => written(() => writeErr(LINES)),
  'JSON of a command': () => written(() => printJson({ [HOSTILE]: LINES })),
  'JSON that is printed as it is': () => written(() => writeJson(JSON.stringify([HOSTILE]))),
  'an error': () =>
    errorText(new HyperturtleError('HT_USAGE', LINES)) &&
    written(() => writeErr(errorText(new HyperturtleError('HT_USAGE', LINES)))),
  "the verifier's log": () =>
    written(() =>
      writeErr(errorText(new HyperturtleError('HT_VERIFIER_REJECTED', 'x', { detail: { log: LINES } }))),
    ),
  'a bug': () => written(() => writeErr(errorText(new TypeError(LINES)))),
  'cells of a table': () => columns(['NAME'], [[HOSTILE]]),
  'cells of a report': () => formatTable({ title: 't', head: ['NAME'], rows: [[HOSTILE]] }),
  'lines of a live table': () => drawn([HOSTILE], {}).replace(/^\x1b\[H|\x1b\[K|\x1b\[J$/g, ''),
  'progress of a long command': () => written(() => createProgress().note(HOSTILE)),
  'an event of the host': () =>
    written(() =>
      writeOut(eventText({ seq: 1, time: '2026-11-22T10:00:02.000Z', type: 'vm.reset', reason: HOSTILE })),
    ),
  'answers and logs about messages': () => printable(LINES),
  'symbols of files': () => new SymbolTable([{ address: 1n, name: LINES, size: 1n }]).names().join(),
  'a flame graph': () => flameGraph([{ frames: [frame], samples: 1 }], { title: HOSTILE, subtitle: HOSTILE }),
  'charts of reports': () => escapeXml(HOSTILE),
};

describe('nothing of an untrusted file reaches a terminal or log raw', () => {
  it.each(Object.entries(PLACES))('not in %s', (_, place) => {
    const text = place();
    expect(text).not.toBe('');
    expect(ACTS.exec(text)).toBeNull();
    expect(text).toMatch(/\\x1b|\\u001b/);
  });

  it.each(['esc-program.o', 'esc-constant.o'])('check of %s: each line is one that we wrote', (name) => {
    const verdict = checkObject(fixture(name), { policy: { cpus: 1 } });
    const text = explain(name, verdict);
    expect(ACTS.exec(text)).toBeNull();
    expect(
      text
        .trimEnd()
        .split('\n')
        .every((l) => /^(program|map|constants|refused by|    |esc-)/.test(l)),
    ).toBe(true);
  });

  it('not in the log of a service, whose lines stay the same JSON', async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'ht-log-'));
    try {
      const file = path.join(dir, 'log');
      const { log, flush } = jsonLog('info', file);
      log.info({ name: HOSTILE, err: new Error(HOSTILE) }, HOSTILE);
      await vi.waitFor(() => {
        flush();
        expect(readFileSync(file, 'utf8')).toContain('evil');
      });
      const text = readFileSync(file, 'utf8');
      expect(ACTS.exec(text)).toBeNull();
      expect((JSON.parse(text) as { name: string }).name).toBe(HOSTILE);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('a name is one line, in folded stacks too', () => {
    expect(visibleLine(LINES)).not.toMatch(/[\n\t]/);
    const table = new SymbolTable([{ address: 0n, name: 'a\nb 7', size: 1n }]);
    const name = table.find(0n)!.name;
    expect(folded([{ frames: [{ ...frame, name }], samples: 1 }]).split('\n')).toHaveLength(2);
  });

  it('what people write in their languages stays as it is, whatever surrounds it', () => {
    expect(visible('größe 名前 Ελ اسم 🐢\n\ttab')).toBe('größe 名前 Ελ اسم 🐢\n\ttab');
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 0x10_ffff })), (points) => {
        const text = String.fromCodePoint(...points);
        expect(ACTS.exec(visible(text))).toBeNull();
        expect(visible(visible(text))).toBe(visible(text));
      }),
    );
  });
});

describe('constants that are no C identifiers', () => {
  it('are refused by check', () => {
    const verdict = checkObject(fixture('esc-constant.o'), { policy: { cpus: 1 } });
    expect(verdict.ok).toBe(false);
    expect(verdict.constants).toEqual([]);
    expect(verdict.refusals).toEqual([
      expect.objectContaining({
        rule: 'symbol',
        message: expect.stringContaining('a C name expected') as string,
      }),
    ]);
  });
});
