/**
 * Schemas of custom resource definitions: whether one is structural, as an API server asks of it, and what is wrong with an
 * object by it. Only what our definitions use is known; another keyword is a problem.
 */

interface Schema {
  type?: string;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  items?: Schema;
  required?: string[];
  enum?: unknown[];
  pattern?: string;
  format?: string;
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  minItems?: number;
  maxItems?: number;
  oneOf?: Schema[];
  anyOf?: Schema[];
  description?: string;
  'x-kubernetes-list-type'?: string;
  'x-kubernetes-list-map-keys'?: string[];
}

const KNOWN = new Set([
  ...['type', 'properties', 'additionalProperties', 'items', 'required', 'enum', 'pattern', 'format'],
  ...['minLength', 'maxLength', 'minimum', 'maximum', 'minItems', 'maxItems', 'oneOf', 'anyOf'],
  ...['description', 'x-kubernetes-list-type', 'x-kubernetes-list-map-keys'],
]);
const TYPES = new Set(['object', 'array', 'string', 'integer', 'number', 'boolean']);

/** The rules of "Specifying a structural schema" that can be broken with the keywords above. */
export function structuralProblems(schema: object, at = ''): string[] {
  const s = schema as Schema;
  const here = at === '' ? '.' : at;
  return [
    ...Object.keys(s)
      .filter((k) => !KNOWN.has(k))
      .map((k) => `${here}: keyword ${k}`),
    ...(s.type === undefined ? [`${here}: no type`] : TYPES.has(s.type) ? [] : [`${here}: type ${s.type}`]),
    ...(typeof s.additionalProperties === 'boolean' || (s.additionalProperties && s.properties)
      ? [`${here}: additionalProperties`]
      : []),
    ...Object.entries(s.properties ?? {}).flatMap(([k, v]) => structuralProblems(v, `${at}.${k}`)),
    ...(typeof s.additionalProperties === 'object'
      ? structuralProblems(s.additionalProperties, `${at}.*`)
      : []),
    ...(s.items ? structuralProblems(s.items, `${at}.[]`) : []),
    ...(s.type === 'array' && !s.items ? [`${here}: an array of what`] : []),
    ...(['oneOf', 'anyOf'] as const).flatMap((k) =>
      (s[k] ?? []).flatMap((v, i) => junctorProblems(v, s, k, `${at}.${k}.${i}`)),
    ),
  ];
}

/** Within oneOf and anyOf nothing is defined, only restricted. */
function junctorProblems(v: Schema, around: Schema, junctor: string, at: string): string[] {
  const defining = ['type', 'description', 'additionalProperties'].filter((k) => k in v);
  return [
    ...defining.map((k) => `${at}: ${k} within ${junctor}`),
    ...(v.required ?? []).flatMap((k) => (around.properties?.[k] ? [] : [`${at}: ${k} is no field`])),
    ...Object.entries(v.properties ?? {}).flatMap(([k, p]) =>
      junctorProblems(p, around, junctor, `${at}.properties.${k}`),
    ),
  ];
}

/** What an API server would refuse. Fields that are not defined are pruned, which is no problem. */
export function schemaProblems(schema: object, value: unknown, at = ''): string[] {
  const s = schema as Schema;
  const here = at === '' ? '.' : at;
  const bad = (what: string, wrong: boolean): string[] => (wrong ? [`${here}: ${what}`] : []);
  if (s.type !== undefined && !hasType(s.type, value)) return [`${here}: ${s.type} expected`];
  const junctors = [
    ...bad(
      'oneOf',
      s.oneOf !== undefined && s.oneOf.filter((v) => schemaProblems(v, value).length === 0).length !== 1,
    ),
    ...bad('anyOf', s.anyOf !== undefined && !s.anyOf.some((v) => schemaProblems(v, value).length === 0)),
  ];
  if (typeof value === 'string')
    return [
      ...bad('pattern', s.pattern !== undefined && !new RegExp(s.pattern, 'u').test(value)),
      ...bad('minLength', value.length < (s.minLength ?? 0)),
      ...bad('maxLength', value.length > (s.maxLength ?? Infinity)),
      ...bad('enum', s.enum !== undefined && !s.enum.includes(value)),
      ...bad('format', s.format === 'date-time' && Number.isNaN(Date.parse(value))),
    ];
  if (typeof value === 'number')
    return [
      ...bad('minimum', value < (s.minimum ?? -Infinity)),
      ...bad('maximum', value > (s.maximum ?? Infinity)),
    ];
  if (Array.isArray(value))
    return [
      ...bad('minItems', value.length < (s.minItems ?? 0)),
      ...bad('maxItems', value.length > (s.maxItems ?? Infinity)),
      ...(s.items ? value.flatMap((v, i) => schemaProblems(s.items!, v, `${at}.${i}`)) : []),
    ];
  if (typeof value !== 'object' || value === null) return junctors;
  return [
    ...(s.required ?? []).flatMap((k) => (k in value ? [] : [`${here}: ${k} is required`])),
    ...junctors,
    ...Object.entries(value).flatMap(([k, v]) => {
      const own = Object.entries(s.properties ?? {}).find(([name]) => name === k)?.[1];
      const other = typeof s.additionalProperties === 'object' ? s.additionalProperties : undefined;
      const by = own ?? other;
      return by ? schemaProblems(by, v, `${at}.${k}`) : [];
    }),
  ];
}

function hasType(type: string, value: unknown): boolean {
  switch (type) {
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    case 'array':
      return Array.isArray(value);
    case 'integer':
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}
