/** A verdict as text for people. */
import { visibleLine } from '../../core/visible.ts';
import { micros } from './cost/run-time.ts';
import type { CheckedProgram, Verdict } from './verdict.ts';

function runTime({ run }: CheckedProgram): string {
  if (!run) return '';
  const most = `, at most ${micros(run.ns)} us a run`;
  return run.nsPerInstruction === 0
    ? most
    : `${most} and ${run.nsPerInstruction.toFixed(1)} ns for each instruction that the verifier walks: a loop has no bound that can be seen`;
}

export function explain(file: string, v: Verdict): string {
  const lines: string[] = [];
  for (const p of v.programs)
    lines.push(`program ${p.name}: hook ${p.hook}, ${p.instructions} instructions${runTime(p)}`);
  for (const m of v.maps)
    lines.push(
      `map ${m.name}: ${m.type}, ${m.type === 'ringbuf' ? `${m.maxEntries} bytes of records` : `${m.maxEntries} of ${m.keyBytes}+${m.valueBytes} bytes`}, ${
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
  // names are the object's: they write no line of their own
  return `${lines.map(visibleLine).join('\n')}\n`;
}
