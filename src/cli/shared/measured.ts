/** What all benches have in common: files that are looked at first, Ctrl-C, and the JSON that was asked for. */
import type { Progress } from '../../core/progress.ts';

export interface Measuring {
  progress: Progress;
  signal: AbortSignal;
}

/** Body; then the JSON file that was asked for. Throws what the body throws, and for outputs that cannot be written before it. */
export async function measured<T>(
  o: { json?: string | undefined; report?: string | undefined },
  body: (c: Measuring) => Promise<T>,
): Promise<T> {
  const [{ createProgress }, { abortOnSignals }, { checkOutput, writeOutput }] = await Promise.all([
    import('../../core/progress.ts'),
    import('../../core/lifecycle.ts'),
    import('../../core/files.ts'),
  ]);
  // before an hour of work, not after it
  checkOutput(o.json);
  checkOutput(o.report);
  const { signal, dispose } = abortOnSignals();
  try {
    const result = await body({ progress: createProgress(), signal });
    if (o.json !== undefined) writeOutput(o.json, `${JSON.stringify(result, null, 1)}\n`);
    return result;
  } finally {
    dispose();
  }
}
