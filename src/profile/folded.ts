/** One line for each different stack, as flamegraph.pl and speedscope read it: `outer;inner 12`. */
import type { NamedStack } from './symbolize.ts';

export function folded(stacks: readonly NamedStack[]): string {
  const lines = new Map<string, number>();
  for (const { frames, samples } of stacks) {
    const line = frames.map((f) => frameText(f.name, f.kernel)).join(';');
    lines.set(line, (lines.get(line) ?? 0) + samples);
  }
  return [...lines]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([line, n]) => `${line} ${n}\n`)
    .join('');
}

/** `_[k]` marks the kernel, as stackcollapse-perf.pl does. Semicolons would be frames of their own. */
function frameText(name: string, kernel: boolean): string {
  return `${name.replaceAll(';', ':')}${kernel ? '_[k]' : ''}`;
}
