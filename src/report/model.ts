/** `bench model` as tables. */
import type { ModelResult } from '../bench/model/rows.ts';
import type { Spread } from '../bench/model/costs.ts';
import { number } from './format.ts';
import type { Table } from './table.ts';

const range = ({ low, high }: Spread): string => `${number(low)} to ${number(high)}`;
const us = (s: Spread): string => `${number(s.value)} (${range(s)})`;

export function modelTables(r: ModelResult): Table[] {
  const { machine: m } = r;
  return [
    {
      title: 'Costs that others measured',
      head: ['', 'figure', 'unit', 'machine', 'part in the model', 'source'],
      rows: r.costs.map((c) => [
        c.what,
        c.low === c.high ? number(c.value) : range(c),
        c.unit,
        c.machine,
        c.used ?? 'none: shown beside it',
        c.source,
      ]),
    },
    {
      title: `So the model has for ${m.name}`,
      head: ['', 'value', 'from', 'to'],
      rows: [
        ['an exit with nothing to do, us', m.exitUs],
        ['clearing a page, us', m.clearUs],
        ['cycles an instruction', m.cyclesPerInstruction],
        ['GHz', m.ghz],
      ].map(([what, s]) => {
        const { value, low, high } = s as Spread;
        return [what as string, number(value), number(low), number(high)];
      }),
    },
    {
      title: 'Counts that are recorded',
      head: ['from'],
      rows: r.counted.map((run) => [run]),
    },
    {
      title: 'A model, held against what the paper measured, us',
      head: ['', 'paper', 'model', 'within its range', 'must be'],
      rows: r.checks.map((c) => [
        c.what,
        String(c.measured),
        us(c.model),
        c.reproduced ? 'yes' : 'NO',
        c.required ? 'yes' : '',
      ]),
    },
    {
      title: 'A model, no measurement: ours on such a machine, us for a page that is touched',
      head: ['', 'exits', 'instructions', 'time', 'machine', 'held against a measurement'],
      rows: r.predictions.map((p) => [
        p.what,
        number(p.count.exits),
        number(p.count.instructions),
        us(p.time),
        p.machine,
        p.checked ? 'yes' : 'NO: nothing published to hold it against',
      ]),
    },
  ].filter((t) => t.rows.length > 0);
}
