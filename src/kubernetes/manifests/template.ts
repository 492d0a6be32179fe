/**
 * Objects of Kubernetes with places for values, and the two things that are made of them: objects with the values in, and
 * templates for Helm, which puts the values in itself. So manifests and chart cannot differ.
 */
import { createHash } from 'node:crypto';
import { stringify } from 'yaml';

export type Json = { [key: string]: Json } | Json[] | string | number | boolean | null;
/** Values by their path, as `image.tag`. */
export interface Values {
  [key: string]: Json;
}

/** A place in an object. `helm`: an action's pipeline; `json`: what stands there. */
class Place {
  readonly helm: string;
  readonly of: (values: Values) => Json;
  /** How what stands there is written: as one word, or as lines of YAML below the key. */
  readonly shape: 'word' | 'lines';
  constructor(helm: string, shape: 'word' | 'lines', of: (values: Values) => Json) {
    this.helm = helm;
    this.shape = shape;
    this.of = of;
  }
}

/** A part that is there for some values only. */
class Part {
  readonly condition: Condition;
  readonly node: Node;
  constructor(condition: Condition, node: Node) {
    this.condition = condition;
    this.node = node;
  }
}

interface Condition {
  helm: string;
  of: (values: Values) => boolean;
}

export type Node =
  | { [key: string]: Node }
  | readonly Node[]
  | Place
  | Part
  | string
  | number
  | boolean
  | null;

function lookUp(values: Values, path: string): Json {
  let at: Json = values;
  for (const key of path.split('.')) {
    if (typeof at !== 'object' || at === null || Array.isArray(at) || !Object.hasOwn(at, key))
      throw new Error(`no value ${path}`);
    at = new Map(Object.entries(at)).get(key) ?? null;
  }
  return at;
}

function textOf(values: Values, path: string): string {
  const found = lookUp(values, path);
  if (typeof found === 'object') throw new Error(`value ${path} is no word`);
  return String(found);
}

const reference = (path: string): string => (path.startsWith('Release.') ? `.${path}` : `.Values.${path}`);

/** A number, true or false. */
export const value = (path: string): Node => new Place(reference(path), 'word', (v) => lookUp(v, path));

/** Words and values as one string: `text('hyperturtle:', ['image.tag'])`. */
export function text(...parts: (string | readonly [path: string])[]): Node {
  const format = parts.map((p) => (typeof p === 'string' ? p.replaceAll('%', '%%') : '%v')).join('');
  const paths = parts.flatMap((p) => (typeof p === 'string' ? [] : [reference(p[0])]));
  return new Place(`printf ${JSON.stringify(format)} ${paths.join(' ')} | quote`, 'word', (v) =>
    parts.map((p) => (typeof p === 'string' ? p : textOf(v, p[0]))).join(''),
  );
}

/** Whatever stands at the path, as it is. */
export const tree = (path: string): Node =>
  new Place(`toYaml ${reference(path)}`, 'lines', (v) => lookUp(v, path));

/** The same as one string of JSON, its keys in order: YAML for those who read it. */
export const json = (path: string): Node =>
  new Place(`toJson ${reference(path)} | quote`, 'word', (v) => sortedJson(lookUp(v, path)));

/** SHA-256 of that, which is another when anything in it is. */
export const hash = (path: string): Node =>
  new Place(`toJson ${reference(path)} | sha256sum | quote`, 'word', (v) =>
    createHash('sha256')
      .update(sortedJson(lookUp(v, path)))
      .digest('hex'),
  );

/** As Go's encoding/json writes it. */
function sortedJson(value: Json): string {
  const sorted = (v: Json): Json => {
    if (Array.isArray(v)) return v.map(sorted);
    if (typeof v !== 'object' || v === null) return v;
    return Object.fromEntries(
      Object.entries(v)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([k, x]) => [k, sorted(x)]),
    );
  };
  const escape = (c: string): string => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(sorted(value)).replace(/[<>&\u2028\u2029]/g, escape);
}

/** An entry of a map or of a list that is there while the value is true. */
export const when = (path: string, node: Node): Node =>
  new Part({ helm: reference(path), of: (v) => lookUp(v, path) === true }, node);

/** There while the value is this word; `not`: while it is another. */
export const whenIs = (path: string, word: string, node: Node, not = false): Node =>
  new Part(
    {
      helm: `${not ? 'ne' : 'eq'} (toString ${reference(path)}) ${JSON.stringify(word)}`,
      of: (v) => (lookUp(v, path) === word) !== not,
    },
    node,
  );

const ABSENT = Symbol('absent');

function resolved(node: Node, values: Values): Json | typeof ABSENT {
  if (node instanceof Part) return node.condition.of(values) ? resolved(node.node, values) : ABSENT;
  if (node instanceof Place) return node.of(values);
  if (Array.isArray(node))
    return node.flatMap((n: Node) => {
      const made = resolved(n, values);
      return made === ABSENT ? [] : [made];
    });
  if (typeof node !== 'object' || node === null) return node;
  return Object.fromEntries(
    Object.entries(node as { [key: string]: Node }).flatMap(([key, n]) => {
      const made = resolved(n, values);
      return made === ABSENT ? [] : [[key, made]];
    }),
  );
}

/** The object with the values in it; undefined: it is not there for these. */
export function withValues(node: Node, values: Values): Json | undefined {
  const made = resolved(node, values);
  return made === ABSENT ? undefined : made;
}

/** YAML that means the same in version 1.1, where `yes` is true, as kubectl and Helm read it. */
export const yaml = (value: unknown): string =>
  stringify(value, { lineWidth: 0, aliasDuplicateObjects: false, version: '1.1' });

/** YAML documents. */
export const yamlOf = (objects: readonly Json[]): string => objects.map((o) => `---\n${yaml(o)}`).join('');

/** A template for Helm. */
export const templateOf = (node: Node): string => `${linesOf(node, 0).join('\n')}\n`;

const pad = (n: number): string => ' '.repeat(n);

function guarded({ helm }: Condition, lines: readonly string[]): string[] {
  return [`{{- if ${helm} }}`, ...lines, '{{- end }}'];
}

/** What stands behind a key or a dash on the same line; undefined: nothing does. */
function inline(node: Node): string | undefined {
  if (node instanceof Place) return node.shape === 'word' ? `{{ ${node.helm} }}` : undefined;
  if (node instanceof Part) return undefined;
  if (Array.isArray(node)) return node.length === 0 ? '[]' : undefined;
  if (typeof node !== 'object' || node === null) return JSON.stringify(node);
  return Object.keys(node).length === 0 ? '{}' : undefined;
}

/** Lines of a map or a list at this indentation. */
function linesOf(node: Node, indent: number): string[] {
  if (node instanceof Part) return guarded(node.condition, linesOf(node.node, indent));
  if (node instanceof Place) return [`${pad(indent)}{{- ${node.helm} | nindent ${indent} }}`];
  if (Array.isArray(node)) return node.flatMap((n: Node) => item(n, indent));
  return Object.entries(node as { [key: string]: Node }).flatMap(([key, n]) => entry(key, n, indent));
}

function entry(key: string, node: Node, indent: number): string[] {
  if (node instanceof Part) return guarded(node.condition, entry(key, node.node, indent));
  const name = /^[\w./-]+$/.test(key) && !/^[\d.-]/.test(key) ? key : JSON.stringify(key);
  const word = inline(node);
  if (word !== undefined) return [`${pad(indent)}${name}: ${word}`];
  return [`${pad(indent)}${name}:`, ...linesOf(node, indent + 2)];
}

function item(node: Node, indent: number): string[] {
  if (node instanceof Part) return guarded(node.condition, item(node.node, indent));
  const word = inline(node);
  if (word !== undefined) return [`${pad(indent)}- ${word}`];
  return [`${pad(indent)}-`, ...linesOf(node, indent + 2)];
}
