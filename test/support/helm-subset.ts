/**
 * What Helm would make of the chart's templates, for the few actions that they are made of: if with a value, eq or ne; values
 * quoted, as JSON, as YAML with an indentation, their SHA-256; printf with %v. Anything else throws. It is not Helm: the real
 * one was compared with it by hand (docs/kubernetes.md).
 */
import { createHash } from 'node:crypto';
import { stringify } from 'yaml';

type Scope = Record<string, unknown>;

/** `scope`: `Values` and `Release`. */
export function renderTemplate(template: string, scope: Scope): string {
  const out: string[] = [];
  const open: boolean[] = [];
  for (const token of template.split(/(\{\{-? .*? ?\}\})/s)) {
    const action = /^\{\{(-?) (.*?) ?\}\}$/s.exec(token);
    if (!action) {
      if (open.every(Boolean)) out.push(token);
      continue;
    }
    // a dash takes the white space before it
    if (action[1] === '-' && open.every(Boolean)) out.push((out.pop() ?? '').replace(/\s+$/, ''));
    const text = action[2] ?? '';
    if (text.startsWith('if ')) open.push(open.every(Boolean) && truth(evaluate(text.slice(3), scope)));
    else if (text === 'end') open.pop();
    else if (open.every(Boolean)) out.push(String(evaluate(text, scope)));
  }
  if (open.length > 0) throw new Error('an if without an end');
  return out.join('');
}

const truth = (v: unknown): boolean => v !== false && v !== undefined && v !== null && v !== '' && v !== 0;

function evaluate(pipeline: string, scope: Scope): unknown {
  const [first = '', ...filters] = pipeline.split(' | ');
  return filters.reduce((v, filter) => call(filter, [v], scope), call(first, [], scope));
}

function words(text: string): string[] {
  return text.match(/"(?:[^"\\]|\\.)*"|\([^)]*\)|\S+/g) ?? [];
}

function call(text: string, last: readonly unknown[], scope: Scope): unknown {
  const [name = '', ...rest] = words(text);
  const args = [...rest.map((w) => word(w, scope)), ...last];
  switch (name) {
    case 'quote':
      return JSON.stringify(String(args[0]));
    case 'toString':
      return String(args[0]);
    case 'toJson':
      return sorted(args[0]);
    case 'sha256sum':
      return createHash('sha256').update(String(args[0])).digest('hex');
    case 'toYaml':
      return stringify(args[0], { lineWidth: 0 }).trimEnd();
    case 'nindent':
      return `\n${String(args[1]).replace(/^/gm, ' '.repeat(Number(args[0])))}`;
    case 'eq':
      return args[0] === args[1];
    case 'ne':
      return args[0] !== args[1];
    case 'printf': {
      let at = 1;
      return String(args[0]).replace(/%[v%]/g, (f) => (f === '%%' ? '%' : String(args[at++])));
    }
    default:
      if (rest.length > 0 || last.length > 0) throw new Error(`not in this subset: ${text}`);
      return word(name, scope);
  }
}

function word(text: string, scope: Scope): unknown {
  if (text.startsWith('"')) return JSON.parse(text) as unknown;
  if (/^\d+$/.test(text)) return Number(text);
  if (text.startsWith('(')) return evaluate(text.slice(1, -1), scope);
  if (!text.startsWith('.')) throw new Error(`not in this subset: ${text}`);
  return text
    .slice(1)
    .split('.')
    .reduce<unknown>((at, key) => (at as Scope)[key], scope);
}

function sorted(v: unknown): string {
  const order = (x: unknown): unknown =>
    Array.isArray(x)
      ? x.map(order)
      : typeof x === 'object' && x !== null
        ? Object.fromEntries(
            Object.entries(x)
              .sort(([a], [b]) => (a < b ? -1 : 1))
              .map(([k, y]) => [k, order(y)]),
          )
        : x;
  // as Go's encoding/json
  return JSON.stringify(order(v)).replace(/[<>&]/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`);
}
