/** The tree L0 > L1 > L2 at the side, by the ARIA pattern: one stop for Tab, arrows within. */
import { h, stranger } from './dom.ts';
import { count } from './format.ts';
import type { Vm } from '../model.ts';
import { hashOf } from './routes.ts';
import type { Route } from './routes.ts';

export function treeView(host: string, vms: readonly Vm[], route: Route): HTMLElement {
  const here = hashOf(route);
  const top = item({
    to: { at: 'host' },
    here,
    level: 1,
    tag: 'L0',
    name: host,
    state: undefined,
    under: vms.map((vm) =>
      item({
        to: { at: 'vm', vm: vm.name },
        here,
        level: 2,
        tag: 'L1',
        name: vm.name,
        state: stateOf(vm),
        under: (vm.l1?.l2s ?? []).map((l2) =>
          item({
            to: { at: 'l2', vm: vm.name, pid: l2.pid },
            here,
            level: 3,
            tag: 'L2',
            name: l2.name,
            state: undefined,
            under: [],
          }),
        ),
        more: (vm.l1?.l2Count ?? 0) - (vm.l1?.l2s.length ?? 0),
      }),
    ),
  });
  return h(
    'ul',
    { role: 'tree', 'aria-label': 'Host, guest hypervisors and nested guests', class: 'tree' },
    top,
  );
}

function item(o: {
  to: Route;
  here: string;
  level: number;
  tag: string;
  name: string;
  state: { text: string; cls: string } | undefined;
  under: HTMLElement[];
  more?: number;
}): HTMLElement {
  const hash = hashOf(o.to);
  const current = hash === o.here;
  return h(
    'li',
    { role: 'none', 'data-key': hash },
    h(
      'a',
      {
        role: 'treeitem',
        href: hash,
        'aria-level': o.level,
        'aria-expanded': o.under.length > 0 ? 'true' : null,
        'aria-selected': current ? 'true' : 'false',
        'aria-current': current ? 'page' : null,
        tabindex: current ? 0 : -1,
      },
      h('span', { class: 'tag' }, o.tag),
      stranger(o.name),
      o.state && h('span', { class: `dot ${o.state.cls}` }, h('span', { class: 'sr' }, `, ${o.state.text}`)),
    ),
    o.under.length > 0 && h('ul', { role: 'group' }, o.under),
    (o.more ?? 0) > 0 && h('p', { class: 'more' }, `and ${count(o.more ?? 0)} more`),
  );
}

export function stateOf(vm: Vm): { text: string; cls: 'good' | 'wait' | 'bad' | 'off' } {
  if (vm.problem !== null && vm.phase !== 'attached') return { text: vm.phase, cls: 'wait' };
  if (vm.problem !== null || vm.qmp.problem !== null) return { text: 'has a problem', cls: 'bad' };
  if (vm.phase === 'attached')
    return vm.agent.connected
      ? { text: 'attached', cls: 'good' }
      : { text: 'attached, no agent', cls: 'wait' };
  return { text: vm.still?.state ?? vm.phase, cls: vm.phase === 'stopped' ? 'off' : 'wait' };
}

/** Arrows, Home and End within the tree. True: the key was the tree's. */
export function moveInTree(tree: Element, key: string, from: Element): boolean {
  const items = [...tree.querySelectorAll<HTMLElement>('[role=treeitem]')];
  const at = items.indexOf(from as HTMLElement);
  const to =
    key === 'ArrowDown'
      ? items[at + 1]
      : key === 'ArrowUp'
        ? items[at - 1]
        : key === 'Home'
          ? items[0]
          : key === 'End'
            ? items.at(-1)
            : key === 'ArrowLeft'
              ? parentOf(from)
              : key === 'ArrowRight'
                ? from.parentElement?.querySelector<HTMLElement>(':scope > ul > li > [role=treeitem]')
                : null;
  if (to === null) return false;
  to?.focus();
  return true;
}

function parentOf(item: Element): HTMLElement | undefined {
  return (
    item.closest('ul[role=group]')?.parentElement?.querySelector<HTMLElement>(':scope > [role=treeitem]') ??
    undefined
  );
}

/** Exactly one item can be reached by Tab, whatever came and went. */
export function oneStop(tree: Element): void {
  const items = [...tree.querySelectorAll<HTMLElement>('[role=treeitem]')];
  const stops = items.filter((i) => i.tabIndex === 0);
  if (stops.length === 1) return;
  const stop = items.find((i) => i.getAttribute('aria-selected') === 'true') ?? items[0];
  for (const i of items) i.tabIndex = i === stop ? 0 : -1;
}
