/**
 * A YAML file checked against a schema. Each problem names file, line and column, what was expected and what stands
 * there; all are told at once.
 */
import { LineCounter, isCollection, isMap, isNode, isPair, parseDocument, visit } from 'yaml';
import type { Document } from 'yaml';
import type { z } from 'zod';
import { HyperturtleError, isHyperturtleError, messageOf } from './errors.ts';
import { readInput } from './files.ts';

/** A configuration of thousands of VMs or rules has less. */
const YAML_BYTES_MAX = 4 << 20;

/** A mistake at a place of the file. */
export interface Mistake {
  path: readonly PropertyKey[];
  message: string;
}

/** What only looking at other files shows: keys and objects that are not there. Asked when the schema is kept. */
export type Further<T> = (value: T) => readonly Mistake[];

/** Throws HT_NOT_FOUND without the file, HT_CONFIG with all problems (also in `detail.problems`), in the order of lines. */
export function readYaml<S extends z.ZodType>(
  file: string,
  schema: S,
  further?: Further<z.output<S>>,
): z.output<S> {
  let text: string;
  try {
    text = readInput(file, 'a YAML file expected', YAML_BYTES_MAX).toString('utf8');
  } catch (e) {
    const code = isHyperturtleError(e, 'HT_NOT_FOUND') ? e.code : 'HT_CONFIG';
    throw new HyperturtleError(code, `configuration ${messageOf(e)}`, { cause: e });
  }
  return parseYaml(text, file, schema, further);
}

/** An empty text is an empty object. `file` is for messages. */
export function parseYaml<S extends z.ZodType>(
  text: string,
  file: string,
  schema: S,
  further: Further<z.output<S>> = () => [],
): z.output<S> {
  const lines = new LineCounter();
  const doc = parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    uniqueKeys: true,
    logLevel: 'error',
  });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  const fail = (problems: string[]): never => {
    throw new HyperturtleError('HT_CONFIG', problems.join('\n'), { detail: { problems } });
  };
  if (doc.errors.length > 0)
    return fail(
      doc.errors.map((e) => {
        const why = e.code === 'MULTIPLE_DOCS' ? 'one document expected, another one begins' : e.message;
        return `${at(e.pos[0])}: ${why.split('\n')[0]}`;
      }),
    );
  const odd = oddKeys(doc);
  if (odd.length > 0) return fail(odd.map((offset) => `${at(offset)}: a plain name expected as a key`));
  let value: unknown;
  try {
    // aliases of aliases may stand for a document of any size
    value = doc.toJS({ maxAliasCount: 100 });
  } catch (e) {
    return fail([`${file}:1:1: ${messageOf(e)}`]);
  }
  const checked = schema.safeParse(value ?? {});
  const mistakes = checked.success ? further(checked.data) : checked.error.issues.flatMap(leaves);
  if (checked.success && mistakes.length === 0) return checked.data;
  return fail(
    mistakes
      .map((m) => ({ offset: offsetOf(doc, m.path), text: mistakeText(doc, m) }))
      .sort((a, b) => a.offset - b.offset)
      .map((m) => `${at(m.offset)}: ${m.text}`),
  );
}

/** Where a list or a mapping stands for a key: as JavaScript has it, that is a text nobody meant. */
function oddKeys(doc: Document): number[] {
  const found: number[] = [];
  visit(doc, {
    Pair: (_, pair) => {
      if (isCollection(pair.key)) found.push(pair.key.range?.[0] ?? 0);
    },
  });
  return found;
}

/** An unknown key is told at its own place. */
function leaves(issue: z.core.$ZodIssue): Mistake[] {
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => ({ path: [...issue.path, key], message: 'there is no such setting' }));
  return [{ path: issue.path, message: issue.message.replace(/^Invalid input: /, '') }];
}

/** A setting that is not there is said to be missing, not to be undefined. */
function mistakeText(doc: Document, { path, message }: Mistake): string {
  const where = path.map(String).join('.') || 'the file';
  const missing = path.length > 0 && !doc.hasIn(path);
  return `${where}: ${missing ? `missing: ${message.replace(/, received undefined$/, '')}` : message}`;
}

/** Offset of what stands at a path, or of the nearest thing around it. */
function offsetOf(doc: Document, at: readonly PropertyKey[]): number {
  for (let n = at.length; n > 0; n--) {
    const parent: unknown = n === 1 ? doc.contents : doc.getIn(at.slice(0, n - 1), true);
    if (isMap(parent)) {
      const key = parent.items.find((p) => isPair(p) && String(p.key) === String(at[n - 1]))?.key;
      if (isNode(key) && key.range) return key.range[0];
    }
    const node: unknown = doc.getIn(at.slice(0, n), true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return 0;
}
