/**
 * Making and renewing the page's elements. Text becomes text nodes and attributes, never HTML; a new tree is laid over the old
 * one in place, so that focus, selection and scrolling stay where they are while figures change.
 */

export type Child = Node | string | number | null | undefined | false | readonly Child[];
export type Attributes = Readonly<Record<string, string | number | boolean | null | undefined>>;

const SVG = 'http://www.w3.org/2000/svg';

export function h(tag: string, attributes: Attributes = {}, ...children: Child[]): HTMLElement {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill<E extends Element>(element: E, attributes: Attributes, children: readonly Child[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? '' : String(value));
  }
  append(element, children);
  return element;
}

function append(to: Element, children: readonly Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (isList(child)) append(to, child);
    else to.append(child instanceof Node ? child : String(child));
  }
}

const isList = (c: Child): c is readonly Child[] => Array.isArray(c);

/** Unseen characters that reorder, hide or break text: shown as what they are, as strangers choose names. */
export function plain(text: string): string {
  return text.replace(
    /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** A stranger's text: a name, a message. */
export function stranger(text: string, cls = 'name'): HTMLElement {
  return h('bdi', { class: cls }, plain(text));
}

/** Makes `old` what `fresh` is; `fresh` is used up. */
export function renew(old: Element, fresh: Element): void {
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !kept(old, name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes])
    if (old.getAttribute(name) !== value && !kept(old, name)) old.setAttribute(name, value);
  let at: ChildNode | null = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const match = matching(at, child);
    if (!match) {
      old.insertBefore(child, at);
      continue;
    }
    if (match !== at) old.insertBefore(match, at);
    at = match.nextSibling;
    if (match instanceof Element && child instanceof Element) renew(match, child);
    else if (match.nodeValue !== child.nodeValue) match.nodeValue = child.nodeValue;
  }
  while (at) {
    const next: ChildNode | null = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** What the user opened, chose or moved the focus to is the user's. */
function kept(element: Element, name: string): boolean {
  return (element instanceof HTMLDetailsElement && name === 'open') || name === 'tabindex';
}

/** The old node for a new one: of the same key where it has one, else the next if it is of the same kind. */
function matching(at: ChildNode | null, fresh: Node): ChildNode | null {
  const key = keyOf(fresh);
  if (key === null) {
    return at && at.nodeName === fresh.nodeName && keyOf(at) === null ? at : null;
  }
  for (let node = at; node; node = node.nextSibling)
    if (node.nodeName === fresh.nodeName && keyOf(node) === key) return node;
  return null;
}

const keyOf = (node: Node): string | null => (node instanceof Element ? node.getAttribute('data-key') : null);
