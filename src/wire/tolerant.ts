/**
 * What is received as an answer is read tolerantly: members that this side does not know are left out, so that an agent
 * goes on understanding a daemon that is newer. Requests stay strict: what is asked for and not understood must not be
 * taken for done.
 */
import { z } from 'zod';

type Schema = z.core.$ZodType;

const made = new WeakMap<Schema, Schema>();

/** The schema with every object in it leaving out unknown members, and every record by an enum unknown keys. */
export function tolerant(schema: z.ZodType): z.ZodType {
  return of(schema) as z.ZodType;
}

function of(schema: Schema): Schema {
  const known = made.get(schema);
  if (known) return known;
  const copy = copyOf(schema as z.core.$ZodTypes);
  made.set(schema, copy);
  return copy;
}

function copyOf(schema: z.core.$ZodTypes): Schema {
  const { def } = schema._zod;
  switch (def.type) {
    case 'object': {
      const shape = Object.fromEntries(Object.entries(def.shape).map(([k, v]) => [k, of(v)]));
      // without a catchall zod leaves out what is not in the shape
      return z.core.clone(schema, { ...withoutCatchall(def), shape } as never);
    }
    case 'array':
      return z.core.clone(schema, { ...def, element: of(def.element) });
    case 'optional':
    case 'nullable':
      return z.core.clone(schema, { ...def, innerType: of(def.innerType) });
    case 'union':
      return z.core.clone(schema, { ...def, options: def.options.map(of) });
    case 'record': {
      const record = z.core.clone(schema, { ...def, valueType: of(def.valueType) });
      const keys = def.keyType._zod.values;
      return keys === undefined ? record : z.preprocess((v) => onlyKeys(v, keys), record);
    }
    default:
      return schema;
  }
}

function withoutCatchall(def: object): object {
  return Object.fromEntries(Object.entries(def).filter(([k]) => k !== 'catchall'));
}

function onlyKeys(value: unknown, keys: ReadonlySet<unknown>): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([k]) => keys.has(k)));
}
