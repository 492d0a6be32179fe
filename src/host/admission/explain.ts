/** A verdict as text for people. */
import type { Verdict } from './verdict.ts';

export function explain(file: string, v: Verdict): string {
  const lines: string[] = [];
  for (const p of v.programs) lines.push(`program ${p.name}: hook ${p.hook}, ${p.instructions} instructions`);
  for (const m of v.maps)
    lines.push(
      `map ${m.name}: ${m.type}, ${m.maxEntries} of ${m.keyBytes}+${m.valueBytes} bytes, ${
        m.arena ? "the VM's arena" : `about ${m.bytes} bytes`
      }`,
    );
  if (v.constants.length > 0) lines.push(`constants: ${v.constants.join(', ')}`);
  for (const r of v.refusals) {
    const where = r.program === undefined ? '' : ` in program ${r.program}`;
    const at = r.instruction === undefined ? '' : ` at instruction ${r.instruction}`;
    lines.push(`refused by '${r.rule}'${where}${at}: ${r.message}`, `    ${r.mend}`);
  }
  lines.push(v.ok ? `${file}: admitted` : `${file}: refused`);
  return `${lines.join('\n')}\n`;
}
