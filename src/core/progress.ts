/**
 * Progress of long work: one line rewritten in place on a terminal, plain lines elsewhere. Goes to stderr, so
 * that stdout stays for results.
 */

import { visibleLine } from './visible.ts';

export interface Progress {
  /** Begins a step. `done` ends it with an optional remark; the time it took is added. */
  step(what: string): { update(detail: string): void; done(remark?: string): void; fail(): void };
  /** A line of its own. */
  note(line: string): void;
}

/** `body` as one step of `progress`, which fails when that throws. `remark`: what is said of its result. */
export async function withStep<T>(
  progress: Progress,
  what: string,
  body: (step: { update(detail: string): void }) => Promise<T>,
  remark?: (result: T) => string,
): Promise<T> {
  const step = progress.step(what);
  try {
    const result = await body(step);
    step.done(remark?.(result));
    return result;
  } catch (e) {
    step.fail();
    throw e;
  }
}

export const silentProgress: Progress = {
  step: () => ({ update: () => {}, done: () => {}, fail: () => {} }),
  note: () => {},
};

export function createProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  const tty = stream.isTTY === true && process.env['CI'] === undefined;
  const width = (): number => Math.max(40, stream.columns ?? 100);
  let live: (() => void) | undefined;
  const line = (text: string): void => {
    const shown = visibleLine(text);
    stream.write(tty ? `\r\x1b[2K${shown}\n` : `${shown}\n`);
    live?.();
  };
  return {
    note: line,
    step(what) {
      const t0 = performance.now();
      const seconds = (): string => `${((performance.now() - t0) / 1000).toFixed(1)} s`;
      let detail = '';
      let lastPlain = t0;
      const draw = (): void => {
        const text = `  ${what}${detail ? `: ${detail}` : ''} (${seconds()})`;
        if (tty) stream.write(`\r\x1b[2K${visibleLine(text).slice(0, width() - 1)}`);
      };
      let timer: NodeJS.Timeout | undefined;
      if (tty) {
        live = draw;
        timer = setInterval(draw, 200);
        timer.unref();
        draw();
      }
      const end = (mark: string, remark?: string): void => {
        clearInterval(timer);
        live = undefined;
        line(`${mark} ${what}${remark ? `: ${remark}` : ''} (${seconds()})`);
      };
      return {
        update(d) {
          detail = d;
          if (tty) draw();
          else if (performance.now() - lastPlain > 15_000) {
            lastPlain = performance.now();
            line(`  ${what}: ${d} (${seconds()})`);
          }
        },
        done: (remark) => end('+', remark),
        fail: () => end('x', 'failed'),
      };
    },
  };
}
