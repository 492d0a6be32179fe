/**
 * The page: asks for the state every two seconds while it is seen, and lays what it shows over what is there. The token comes from
 * the address's fragment once, is kept for this tab, and is taken out of the address at once.
 */
import type { State } from '../model.ts';
import { h, plain, renew } from './dom.ts';
import type { Child } from './dom.ts';
import { moveInFlame, oneBoxStop } from './flame.ts';
import type { Flame } from './flame.ts';
import { History } from './history.ts';
import { hostView } from './host.ts';
import { remember } from './counted.ts';
import { l2View } from './l2.ts';
import { empty } from './parts.ts';
import { hashOf, routeOf } from './routes.ts';
import type { Route } from './routes.ts';
import { moveInTree, oneStop, treeView } from './tree.ts';
import { l2Key, vmView } from './vm.ts';
import type { Showing } from './vm.ts';

const INTERVAL_MS = 2000;
const TIMEOUT_MS = 10_000;
const TOKEN = 'hyperturtle-token';

type Link = 'connecting' | 'live' | 'paused' | 'server gone' | 'token';

const app = document.getElementById('app') ?? document.body;
const history = new History();
let state: State | undefined;
let link: Link = 'connecting';
let paused = false;
let refusalsOnly = false;
let wrongToken = false;
let timer: ReturnType<typeof setTimeout> | undefined;
let asking: AbortController | undefined;
let shownHash = '';
const flames = new Map<string, Flame>();
let zoom = '';

function takeToken(): void {
  const given = /^#t=([\w-]+)$/.exec(location.hash)?.[1];
  if (given === undefined) return;
  sessionStorage.setItem(TOKEN, given);
  window.history.replaceState(null, '', '#/');
}

const route = (): Route => routeOf(location.hash);

async function look(): Promise<void> {
  clearTimeout(timer);
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  const token = sessionStorage.getItem(TOKEN);
  if (token === null) link = 'token';
  else
    try {
      const here = route();
      const query =
        here.at === 'host'
          ? ''
          : `?vm=${encodeURIComponent(here.vm)}${here.at === 'l2' ? `&l2=${here.pid}` : ''}`;
      const response = await fetch(`/api/state${query}`, {
        headers: { authorization: `Bearer ${token}` },
        signal: AbortSignal.any([mine.signal, AbortSignal.timeout(TIMEOUT_MS)]),
      });
      if (response.status === 401) {
        sessionStorage.removeItem(TOKEN);
        wrongToken = true;
        link = 'token';
      } else {
        if (!response.ok) throw new Error(`status ${response.status}`);
        take((await response.json()) as State, here);
        link = paused ? 'paused' : 'live';
      }
    } catch {
      if (mine.signal.aborted) return;
      link = 'server gone';
    }
  if (mine.signal.aborted) return;
  show();
  if (link !== 'token' && !paused && !document.hidden) timer = setTimeout(() => void look(), INTERVAL_MS);
}

function take(fresh: State, here: Route): void {
  state = fresh;
  if (!fresh.daemon) return;
  history.begin();
  remember(history, fresh.atMs, fresh.vms);
  // L1's figures are as old as its report
  for (const vm of fresh.vms)
    for (const l2 of vm.l1?.l2s ?? []) history.add(l2Key(vm, l2), Date.parse(vm.l1?.at ?? ''), l2.faults);
  history.end();
  if (here.at === 'l2') keepFlame(fresh, here);
}

/** A profile that has ended stays on the page until another one begins, or the nested guest ends. */
function keepFlame(fresh: State, here: Route & { at: 'l2' }): void {
  const vm = fresh.vms.find((v) => v.name === here.vm);
  const l2 = vm?.l1?.l2s.find((l) => l.pid === here.pid);
  if (!vm || !l2) return flames.clear();
  const key = l2Key(vm, l2);
  const profile = fresh.detail?.profile;
  const was = flames.get(key);
  if (profile) flames.set(key, { profile, endedAt: null });
  else if (was?.endedAt === null) flames.set(key, { ...was, endedAt: new Date().toISOString() });
}

function show(): void {
  const here = route();
  const fresh = h('div', { id: 'app' }, link === 'token' ? tokenView() : frame(here));
  renew(app, fresh);
  const tree = app.querySelector('[role=tree]');
  if (tree) oneStop(tree);
  const flame = app.querySelector('.flame');
  if (flame) oneBoxStop(flame);
  document.title = titleOf(here);
  const hash = hashOf(here);
  if (shownHash !== '' && shownHash !== hash) {
    zoom = '';
    // another page: its heading is where reading begins
    app.querySelector<HTMLElement>('main h1')?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  shownHash = hash;
}

function titleOf(here: Route): string {
  return here.at === 'host' ? 'HyperTurtle' : `${plain(here.vm)} · HyperTurtle`;
}

function frame(here: Route): Child {
  return [
    h('a', { class: 'skip', href: '#main', 'data-action': 'skip' }, 'Skip to content'),
    h(
      'header',
      { class: 'bar' },
      h('p', { class: 'brand' }, 'HyperTurtle'),
      h(
        'p',
        { class: `link ${linkClass()}`, role: 'status' },
        h('span', { class: 'lamp', 'aria-hidden': 'true' }),
        linkText(),
      ),
      h(
        'button',
        { type: 'button', 'data-action': 'pause', 'aria-pressed': paused ? 'true' : 'false' },
        paused ? 'Resume' : 'Pause',
      ),
    ),
    h('div', { class: 'body' }, side(here), h('main', { id: 'main' }, content(here))),
  ];
}

function linkClass(): string {
  return link === 'server gone' || (state && !state.daemon) ? 'gone' : link;
}

function linkText(): string {
  if (link === 'live' && state && !state.daemon) return 'daemon not reachable';
  if (link === 'server gone') return 'dashboard process not reachable, trying again';
  return link;
}

function side(here: Route): Child {
  if (!state?.daemon) return null;
  return h('nav', { 'aria-label': 'Levels', class: 'side' }, treeView(state.host.name, state.vms, here));
}

function content(here: Route): Child {
  if (!state) return link === 'server gone' ? gone() : empty('Loading …');
  if (!state.daemon)
    return [
      h('header', { class: 'head' }, h('h1', { tabindex: -1 }, 'Daemon not reachable')),
      h('div', { class: 'problem' }, h('p', {}, h('bdi', {}, plain(state.problem ?? '')))),
      h(
        'p',
        {},
        'This page shows it again as soon as it is there. VMs run on meanwhile: what no program answers, L1 answers itself.',
      ),
    ];
  const showing: Showing = { state, history, intervalS: INTERVAL_MS / 1000, refusalsOnly, flames, zoom };
  if (here.at === 'host') return hostView(showing);
  const vm = state.vms.find((v) => v.name === here.vm);
  if (!vm)
    return [
      h('header', { class: 'head' }, h('h1', { tabindex: -1 }, 'No such VM')),
      empty(
        'The daemon does not know ',
        h('bdi', { class: 'name' }, plain(here.vm)),
        '. ',
        h('a', { href: '#/' }, 'All VMs'),
        '.',
      ),
    ];
  return here.at === 'vm' ? vmView(vm, showing) : l2View(vm, here.pid, showing);
}

function gone(): Child {
  return [
    h('header', { class: 'head' }, h('h1', { tabindex: -1 }, 'Dashboard process not reachable')),
    empty(
      'Start it again: ',
      h('code', {}, 'hyperturtle host dashboard'),
      '. It prints a new address with a new token.',
    ),
  ];
}

function tokenView(): Child {
  return h(
    'main',
    { class: 'token', id: 'main' },
    h('h1', {}, 'HyperTurtle'),
    h(
      'form',
      { 'data-action': 'token' },
      h('label', { for: 'token' }, 'Token'),
      h('input', {
        id: 'token',
        name: 'token',
        type: 'password',
        autocomplete: 'off',
        required: true,
        'aria-describedby': 'token-hint',
      }),
      h(
        'p',
        { id: 'token-hint', class: 'note' },
        'Open the address that ',
        h('code', {}, 'hyperturtle host dashboard'),
        ' printed, or enter what stands there after #t=.',
      ),
      wrongToken &&
        h(
          'p',
          { class: 'problem', role: 'alert' },
          'That token was not right: each start of the dashboard has its own.',
        ),
      h('button', { type: 'submit' }, 'Open'),
    ),
  );
}

function actionOf(event: Event): string | null {
  return event.target instanceof Element
    ? (event.target.closest('[data-action]')?.getAttribute('data-action') ?? null)
    : null;
}

app.addEventListener('click', (event) => {
  const action = actionOf(event);
  if (action === 'skip') {
    event.preventDefault();
    app.querySelector<HTMLElement>('main h1')?.focus();
  } else if (action === 'pause') {
    paused = !paused;
    if (paused) {
      clearTimeout(timer);
      link = 'paused';
      show();
    } else void look();
  } else if (action === 'zoom') zoomTo(event.target);
});

function zoomTo(target: EventTarget | null): void {
  const box = target instanceof Element ? target.closest('.box') : null;
  zoom = box?.getAttribute('data-key') ?? '';
  show();
}

app.addEventListener('change', (event) => {
  if (actionOf(event) !== 'refusals' || !(event.target instanceof HTMLInputElement)) return;
  refusalsOnly = event.target.checked;
  show();
});
app.addEventListener('submit', (event) => {
  event.preventDefault();
  const input = app.querySelector<HTMLInputElement>('#token');
  const token = input?.value.trim().replace(/^.*#t=/, '') ?? '';
  if (token === '') return;
  sessionStorage.setItem(TOKEN, token);
  wrongToken = false;
  link = 'connecting';
  void look();
});
app.addEventListener('keydown', (event) => {
  const from = event.target;
  const flame = from instanceof Element ? from.closest('.flame') : null;
  if (flame && from instanceof Element && !event.altKey && !event.ctrlKey && !event.metaKey) {
    if (event.key === 'Enter' || event.key === ' ' || event.key === 'Escape') {
      zoomTo(event.key === 'Escape' ? null : from);
      event.preventDefault();
    } else if (moveInFlame(flame, event.key, from)) event.preventDefault();
    return;
  }
  const tree = from instanceof Element ? from.closest('[role=tree]') : null;
  if (!tree || !(from instanceof Element) || event.altKey || event.ctrlKey || event.metaKey) return;
  if (moveInTree(tree, event.key, from)) event.preventDefault();
});
app.addEventListener('focusin', (event) => {
  const item = event.target;
  if (!(item instanceof HTMLElement) || item.getAttribute('role') !== 'treeitem') return;
  for (const other of app.querySelectorAll<HTMLElement>('[role=treeitem]'))
    other.tabIndex = other === item ? 0 : -1;
});
window.addEventListener('hashchange', () => {
  takeToken();
  void look();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !paused) void look();
});

takeToken();
show();
void look();
