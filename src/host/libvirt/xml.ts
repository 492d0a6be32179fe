/**
 * Domain XML as a tree that is written back as it was read: comments, order and white space stay. What is added is
 * indented as libvirt indents; removing it takes that white space along.
 */
import { DOMParser, XMLSerializer } from '@xmldom/xmldom';
import type { Document, Element, Node } from '@xmldom/xmldom';
import { HyperturtleError, messageOf } from '../../core/errors.ts';

export type { Document, Element } from '@xmldom/xmldom';

/** libvirt's name space for arguments that it has no element for. */
export const QEMU_NS = 'http://libvirt.org/schemas/domain/qemu/1.0';
const XMLNS_NS = 'http://www.w3.org/2000/xmlns/';
const ELEMENT = 1;
const TEXT = 3;

/** Reads a document whose outermost element is <domain>. Throws HT_CONFIG; `what` begins the message. */
export function parseDomain(text: string, what: string): { doc: Document; domain: Element } {
  const fail = (why: string): never => {
    throw new HyperturtleError('HT_CONFIG', `${what}: domain XML expected: ${why.split('\n')[0]}`);
  };
  let doc: Document | undefined;
  try {
    const parser = new DOMParser({ onError: (_, message) => fail(message) });
    doc = parser.parseFromString(text, 'text/xml');
  } catch (e) {
    fail(messageOf(e));
  }
  const domain = doc?.documentElement;
  if (!doc || !domain || domain.localName !== 'domain' || domain.namespaceURI !== null)
    return fail(`<${domain?.nodeName ?? ''}> found`);
  return { doc, domain };
}

export const serialize = (doc: Document): string => new XMLSerializer().serializeToString(doc);

/** Children that are elements of this name; of libvirt's own unless a name space is given. */
export function childrenOf(of: Element | undefined, name: string, ns: string | null = null): Element[] {
  return elementsOf(of).filter((e) => e.localName === name && e.namespaceURI === ns);
}

export const childOf = (
  of: Element | undefined,
  name: string,
  ns: string | null = null,
): Element | undefined => childrenOf(of, name, ns)[0];

export function elementsOf(of: Element | undefined): Element[] {
  return nodesOf(of).filter((n): n is Element => n.nodeType === ELEMENT);
}

const nodesOf = (of: Element | undefined): Node[] => (of ? Array.from(of.childNodes as Iterable<Node>) : []);

/** Nothing in it but white space: no element, comment or text. */
export function isEmpty(e: Element): boolean {
  return nodesOf(e).every((n) => n.nodeType === TEXT && n.nodeValue?.trim() === '');
}

export const textOf = (e: Element | undefined): string | undefined => e?.textContent?.trim();

/** The attribute, or undefined where there is none. */
export const attributeOf = (e: Element | undefined, name: string): string | undefined =>
  e?.getAttribute(name) ?? undefined;

/** Attributes but for declarations of name spaces. */
export function attributesOf(e: Element): [name: string, value: string][] {
  return Array.from(e.attributes as Iterable<{ name: string; value: string }>)
    .filter((a) => a.name !== 'xmlns' && !a.name.startsWith('xmlns:'))
    .map((a) => [a.name, a.value]);
}

/** The prefix that the outermost element has for a name space. */
export function prefixOf(domain: Element, ns: string): string | undefined {
  for (const a of Array.from(domain.attributes as Iterable<{ name: string; value: string }>))
    if (a.name.startsWith('xmlns:') && a.value === ns) return a.name.slice('xmlns:'.length);
  return undefined;
}

export function declare(domain: Element, prefix: string, ns: string): void {
  domain.setAttributeNS(XMLNS_NS, `xmlns:${prefix}`, ns);
}

export function undeclare(domain: Element, prefix: string): void {
  domain.removeAttributeNS(XMLNS_NS, prefix);
}

export interface NewElement {
  name: string;
  ns?: string;
  attributes?: Readonly<Record<string, string | number | undefined>>;
  text?: string;
  children?: readonly NewElement[];
}

/** Adds it as the last child, or after `after`, with a line of its own. */
export function add(parent: Element, spec: NewElement, after?: Element): Element {
  const doc = parent.ownerDocument!;
  const e = spec.ns === undefined ? doc.createElement(spec.name) : doc.createElementNS(spec.ns, spec.name);
  for (const [name, value] of Object.entries(spec.attributes ?? {}))
    if (value !== undefined) e.setAttribute(name, String(value));
  if (spec.text !== undefined) e.appendChild(doc.createTextNode(spec.text));
  const inner = indent(parent);
  const place = after ? after.nextSibling : lastSpace(parent);
  parent.insertBefore(doc.createTextNode(`\n${inner}`), place);
  parent.insertBefore(e, place);
  if (place === null && !after) parent.appendChild(doc.createTextNode(`\n${inner.slice(2)}`));
  for (const child of spec.children ?? []) add(e, child);
  return e;
}

/** White space before a child of `parent`. */
function indent(parent: Element): string {
  let depth = 0;
  for (let at: Node | null = parent; at?.nodeType === ELEMENT; at = at.parentNode) depth += 1;
  return '  '.repeat(depth);
}

/** The white space before the end tag. */
function lastSpace(parent: Element): Node | null {
  const last = parent.lastChild;
  return last?.nodeType === TEXT && last.nodeValue?.trim() === '' ? last : null;
}

/** Takes it out, with the white space before it. A parent that has nothing else is then as one without content. */
export function remove(e: Element): void {
  const parent = e.parentNode as Element;
  const before = e.previousSibling;
  if (before?.nodeType === TEXT && before.nodeValue?.trim() === '') parent.removeChild(before);
  parent.removeChild(e);
  if (isEmpty(parent)) for (const n of nodesOf(parent)) parent.removeChild(n);
}
