/** Pieces that several views are made of. */
import { h } from './dom.ts';
import type { Child } from './dom.ts';

/** A heading with what belongs to it; `note` says where figures come from. */
export function section(id: string, title: string, ...content: Child[]): HTMLElement {
  return h(
    'section',
    { 'aria-labelledby': `${id}-h`, 'data-key': id, id },
    h('h2', { id: `${id}-h` }, title),
    content,
  );
}

export const note = (...content: Child[]): HTMLElement => h('p', { class: 'note' }, content);
export const empty = (...content: Child[]): HTMLElement => h('p', { class: 'empty' }, content);

export interface Tile {
  name: string;
  value: string;
  under?: Child;
}

export function tiles(all: readonly Tile[]): HTMLElement {
  return h(
    'dl',
    { class: 'tiles' },
    all.map((t) =>
      h(
        'div',
        { 'data-key': t.name },
        h('dt', {}, t.name),
        h('dd', {}, t.value),
        t.under && h('dd', { class: 'under' }, t.under),
      ),
    ),
  );
}

export interface Column {
  head: string;
  /** Numbers stand to the right. */
  number?: boolean;
  cls?: string;
}

export interface Row {
  key: string;
  cells: readonly Child[];
}

/** The first column names its row. Wide ones scroll by themselves, by keyboard as well. */
export function table(caption: string, columns: readonly Column[], rows: readonly Row[]): HTMLElement {
  const cls = (c: Column | undefined): string | undefined =>
    [c?.number ? 'n' : '', c?.cls ?? ''].filter(Boolean).join(' ') || undefined;
  return h(
    'div',
    { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption },
    h(
      'table',
      {},
      h('caption', { class: 'sr' }, caption),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          columns.map((c) => (c.head === '' ? h('td') : h('th', { scope: 'col', class: cls(c) }, c.head))),
        ),
      ),
      h(
        'tbody',
        {},
        rows.map((r) =>
          h(
            'tr',
            { 'data-key': r.key },
            r.cells.map((cell, i) =>
              i === 0
                ? h('th', { scope: 'row', class: cls(columns[i]) }, cell)
                : h('td', { class: cls(columns[i]) }, cell),
            ),
          ),
        ),
      ),
    ),
  );
}

export function badge(text: string, kind: 'good' | 'wait' | 'bad' | 'off'): HTMLElement {
  return h('span', { class: `badge ${kind}` }, text);
}

export function legend(items: readonly { name: string; cls: string }[]): HTMLElement {
  return h(
    'ul',
    { class: 'legend' },
    items.map((i) => h('li', {}, h('span', { class: `swatch ${i.cls}`, 'aria-hidden': 'true' }), i.name)),
  );
}
