/**
 * The flame graph of a nested guest. Width is samples, callers are below. A click or Enter makes a box as wide as the picture; one stop
 * for Tab, arrows go from box to box.
 */
import type { L2, Profile, ProfileBox } from '../model.ts';
import { h, plain, s, stranger } from './dom.ts';
import type { Child } from './dom.ts';
import { clock, count, plural, share } from './format.ts';
import { empty, note, section, table } from './parts.ts';

const ROW = 19;
const CHAR = 6.7;
/** Narrower ones cannot be hit. */
const NARROWEST = 1;
/** Shades of each kind, by name, in the style sheet. */
const SHADES = 5;
const PATH = '\u0000';

/** What the page keeps: a profile that has ended is still to be looked at. */
export interface Flame {
  profile: Profile;
  /** It was taken until then; null: it is taken now. */
  endedAt: string | null;
}

export function flameSection(l2: L2, flame: Flame | undefined, zoom: string): HTMLElement {
  if (!flame)
    return section(
      'flame',
      'Flame graph',
      empty(
        'Nobody samples this nested guest. While ',
        h('code', {}, 'hyperturtle profile'),
        ' or ',
        h('code', {}, 'hyperturtle top --l2 '),
        stranger(l2.name),
        ' runs in L1, what it counts is drawn here.',
      ),
    );
  const { profile, endedAt } = flame;
  const facts = [
    plural(profile.samples, 'sample'),
    profile.hz === null ? null : `${count(profile.hz)} a second of each vCPU`,
    `from ${clock(profile.since)}`,
    endedAt === null ? 'still being taken' : `until ${clock(endedAt)}`,
  ].filter((f) => f !== null);
  return section(
    'flame',
    'Flame graph',
    profile.problem !== null
      ? h('div', { class: 'problem' }, h('p', {}, stranger(profile.problem, 'said')))
      : profile.root === null
        ? empty('No samples yet: it has done nothing since it is sampled.')
        : [picture(profile.root, zoom), hottest(profile)],
    note(`${facts.join(' · ')}, by `, stranger(profile.object), '.'),
  );
}

function picture(root: ProfileBox, zoom: string): Child {
  const width = window.innerWidth < 760 ? 340 : 960;
  const chosen = boxAt(root, zoom) ?? { path: [root], key: root.name };
  const below = chosen.path.slice(0, -1);
  const top = chosen.path.at(-1) ?? root;
  const rows = below.length + depth(top);
  const boxes: SVGElement[] = [];
  const draw = (box: ProfileBox, key: string, x: number, w: number, level: number): void => {
    boxes.push(
      one(box, key, root.samples, { x, y: (rows - 1 - level) * ROW, w, above: level < below.length }),
    );
  };
  let key = '';
  below.forEach((box, level) => {
    key = level === 0 ? box.name : `${key}${PATH}${id(box)}`;
    draw(box, key, 0, width, level);
  });
  const rise = (box: ProfileBox, at: string, x: number, w: number, level: number): void => {
    draw(box, at, x, w, level);
    let left = x;
    for (const child of box.children) {
      const wide = (w * child.samples) / box.samples;
      if (wide >= NARROWEST) rise(child, `${at}${PATH}${id(child)}`, left, wide, level + 1);
      left += wide;
    }
  };
  rise(top, chosen.key, 0, width, below.length);
  return h(
    'div',
    {
      class: 'flame',
      role: 'group',
      'aria-label': 'Flame graph: Enter widens a box, Escape shows all, arrows move',
    },
    s('svg', { class: 'flames', viewBox: `0 0 ${width} ${rows * ROW}` }, boxes),
  );
}

const id = (box: ProfileBox): string => `${box.module} ${box.name}`;

function depth(box: ProfileBox): number {
  return 1 + box.children.reduce((most, c) => Math.max(most, depth(c)), 0);
}

/** The box of a key with its callers, outermost first; a profile that grew may not have it any more. */
function boxAt(root: ProfileBox, key: string): { path: ProfileBox[]; key: string } | undefined {
  const [first, ...names] = key.split(PATH);
  if (first !== root.name) return undefined;
  const path = [root];
  for (const name of names) {
    const next = path.at(-1)?.children.find((c) => id(c) === name);
    if (!next) return undefined;
    path.push(next);
  }
  return { path, key };
}

function one(
  box: ProfileBox,
  key: string,
  all: number,
  { x, y, w, above }: { x: number; y: number; w: number; above: boolean },
): SVGElement {
  const name = plain(box.name);
  const chars = Math.floor((w - 6) / CHAR);
  const shown = chars < 3 ? '' : name.length <= chars ? name : `${name.slice(0, chars - 1)}…`;
  const about = `${name}${box.module === '' ? '' : ` (${plain(box.module)})`}: ${plural(box.samples, 'sample')}, ${share(box.samples, all)}`;
  return s(
    'g',
    {
      class: `box ${box.module === '' ? 'root' : `${box.kernel ? 'k' : 'u'}${shade(box.name)}`}${above ? ' above' : ''}`,
      role: 'button',
      tabindex: -1,
      'data-key': key,
      'data-action': 'zoom',
      'aria-label': about,
    },
    s('title', {}, about),
    s('rect', { x: px(x), y, width: px(Math.max(w - 1, 0.5)), height: ROW - 1, rx: 2 }),
    shown !== '' && s('text', { x: px(x + 3), y: y + 13 }, shown),
  );
}

const px = (n: number): string => n.toFixed(1);

/** The same function has the same colour in every picture. */
function shade(name: string): number {
  let hash = 0;
  for (let i = 0; i < name.length; i++) hash = (hash * 31 + name.charCodeAt(i)) >>> 0;
  return (hash >> 4) % SHADES;
}

function hottest({ hottest: hot, samples }: Profile): Child {
  return [
    h('h3', {}, 'Hottest functions'),
    table(
      'Hottest functions of this nested guest',
      [
        { head: 'Function' },
        { head: 'Self', number: true },
        { head: 'Samples', number: true },
        { head: 'Where' },
      ],
      hot.map((f) => ({
        key: `${f.module} ${f.name}`,
        cells: [stranger(f.name), share(f.samples, samples), count(f.samples), stranger(f.module)],
      })),
    ),
  ];
}

/** One box can be reached by Tab, whatever came and went. */
export function oneBoxStop(flame: Element): void {
  const boxes = [...flame.querySelectorAll<SVGElement>('.box')];
  const stops = boxes.filter((b) => b.tabIndex === 0);
  if (stops.length === 1) return;
  boxes.forEach((b, i) => (b.tabIndex = i === 0 ? 0 : -1));
}

/** Up to what a box called, down to its caller, left and right among those beside it. True: the key was the picture's. */
export function moveInFlame(flame: Element, key: string, from: Element): boolean {
  const boxes = [...flame.querySelectorAll<SVGElement>('.box')];
  const of = (b: Element): string => b.getAttribute('data-key') ?? '';
  const level = (b: Element): number => of(b).split(PATH).length;
  const at = boxes.indexOf(from as SVGElement);
  const beside = boxes.filter((b) => level(b) === level(from));
  const to = ((): SVGElement | undefined | null => {
    switch (key) {
      case 'ArrowUp':
        return boxes.find((b) => of(b).startsWith(of(from) + PATH) && level(b) === level(from) + 1);
      case 'ArrowDown':
        return boxes
          .slice(0, at)
          .findLast((b) => of(from).startsWith(of(b) + PATH) && level(b) === level(from) - 1);
      case 'ArrowLeft':
        return beside[beside.indexOf(from as SVGElement) - 1];
      case 'ArrowRight':
        return beside[beside.indexOf(from as SVGElement) + 1];
      case 'Home':
        return boxes[0];
      default:
        return null;
    }
  })();
  if (to === null) return false;
  if (to) {
    for (const b of boxes) b.tabIndex = b === to ? 0 : -1;
    to.focus();
  }
  return true;
}
