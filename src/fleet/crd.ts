/** The custom resources of fleets, and what a reconciler must be allowed: for the chart, the manifests and the documents. */
import { z } from 'zod';
import { lazy } from '../core/lazy.ts';
import { NodeStatus, SET_NAME_MAX, SetSpec } from './spec.ts';

export const GROUP = 'hyperturtle.io';
export const VERSION = 'v1alpha1';
export const SETS = 'hyperupcallsets';
export const NODES = 'hyperupcallnodes';

type Json = { [key: string]: Json } | Json[] | string | number | boolean | null;

/** Keys that a structural schema has no place for. */
const NOT_STRUCTURAL = ['$schema', 'additionalProperties', 'propertyNames'];

/** Our schema as a structural one of OpenAPI v3: every value has a type, nothing is closed. */
function structural(schema: z.ZodType): { [key: string]: Json } {
  const plain = z.toJSONSchema(schema, { target: 'draft-7', io: 'input' }) as { [key: string]: Json };
  return clean(plain) as { [key: string]: Json };
}

function clean(value: Json): Json {
  if (Array.isArray(value)) return value.map(clean);
  if (typeof value !== 'object' || value === null) return value;
  const map = value['type'] === 'object' && value['properties'] === undefined;
  // the format says it; the pattern of it is a page long
  const dated = value['format'] === 'date-time';
  const kept = Object.entries(value).filter(
    ([key]) => !NOT_STRUCTURAL.includes(key) && !(dated && key === 'pattern'),
  );
  const out: { [key: string]: Json } = Object.fromEntries(
    kept.map(([key, v]) => [
      key,
      key === 'properties' && typeof v === 'object' && v !== null && !Array.isArray(v)
        ? Object.fromEntries(Object.entries(v).map(([name, s]) => [name, clean(s)]))
        : key === 'enum' || key === 'required'
          ? v
          : clean(v),
    ]),
  );
  // values of a map of names have a schema of their own
  const values = value['additionalProperties'];
  if (map && typeof values === 'object' && values !== null) out['additionalProperties'] = clean(values);
  return out;
}

/** Exactly one of these is required beside what is required anyway. */
const oneOf = (...names: string[]): Json => names.map((name) => ({ required: [name] }));

const at = (schema: { [key: string]: Json }, name: string): { [key: string]: Json } => {
  const properties = schema['properties'] as { [key: string]: { [key: string]: Json } };
  const found = Object.entries(properties).find(([key]) => key === name)?.[1];
  if (found === undefined) throw new Error(`the schema has no field ${name}`);
  return found;
};

function setSchema(): { [key: string]: Json } {
  const spec = structural(SetSpec());
  for (const object of [at(spec, 'object'), at(at(spec, 'rollout'), 'object')])
    object['oneOf'] = oneOf('configMap', 'oci');
  spec['anyOf'] = oneOf('object', 'rollout');
  return {
    type: 'object',
    required: ['spec'],
    properties: {
      apiVersion: { type: 'string' },
      kind: { type: 'string' },
      metadata: {
        type: 'object',
        properties: {
          name: { type: 'string', maxLength: SET_NAME_MAX, pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$' },
        },
      },
      spec,
    },
  };
}

function nodeSchema(): { [key: string]: Json } {
  const status = structural(NodeStatus());
  Object.assign(at(status, 'sets'), {
    'x-kubernetes-list-type': 'map',
    'x-kubernetes-list-map-keys': ['name'],
  });
  return {
    type: 'object',
    properties: {
      apiVersion: { type: 'string' },
      kind: { type: 'string' },
      metadata: { type: 'object' },
      status,
    },
  };
}

const column = (name: string, type: string, jsonPath: string): Json => ({ name, type, jsonPath });
const AGE = column('Age', 'date', '.metadata.creationTimestamp');

function definition(
  names: { kind: string; plural: string; singular: string; shortNames: string[] },
  version: { [key: string]: Json },
): { [key: string]: Json } {
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${names.plural}.${GROUP}` },
    spec: {
      group: GROUP,
      scope: 'Namespaced',
      names: { ...names, listKind: `${names.kind}List` },
      versions: [{ name: VERSION, served: true, storage: true, ...version }],
    },
  };
}

/** Both definitions, to be applied before anything that uses them. */
export const customResources = lazy(() => [
  definition(
    { kind: 'HyperupcallSet', plural: SETS, singular: 'hyperupcallset', shortNames: ['hus'] },
    {
      schema: { openAPIV3Schema: setSchema() },
      additionalPrinterColumns: [
        column('ConfigMap', 'string', '.spec.object.configMap.name'),
        column('Image', 'string', '.spec.object.oci.image'),
        column('Rollout', 'number', '.spec.rollout.percent'),
        AGE,
      ],
    },
  ),
  definition(
    { kind: 'HyperupcallNode', plural: NODES, singular: 'hyperupcallnode', shortNames: ['hun'] },
    {
      schema: { openAPIV3Schema: nodeSchema() },
      subresources: { status: {} },
      additionalPrinterColumns: [
        column('Connected', 'boolean', '.status.connected'),
        column('Guests', 'integer', '.status.nestedGuests.registered'),
        column('Wanted', 'integer', '.status.summary.wanted'),
        column('Linked', 'integer', '.status.summary.linked'),
        column('Refused', 'integer', '.status.summary.refused'),
        AGE,
      ],
    },
  ),
]);

/** What the reconciler asks for in its own namespace: a Role. It lists no ConfigMaps. */
export const RECONCILER_ROLE_RULES = [
  { apiGroups: [GROUP], resources: [SETS], verbs: ['get', 'list', 'watch'] },
  { apiGroups: [GROUP], resources: [NODES], verbs: ['get', 'create', 'patch'] },
  { apiGroups: [GROUP], resources: [`${NODES}/status`], verbs: ['patch'] },
  { apiGroups: [''], resources: ['configmaps'], verbs: ['get'] },
] as const;

/** And of the cluster: a ClusterRole. Labels of nodes say which sets a node is selected by. */
export const RECONCILER_CLUSTER_RULES = [
  { apiGroups: [''], resources: ['nodes'], verbs: ['get', 'list', 'watch'] },
] as const;

/** Its command line; the name of the node is NODE_NAME in its environment, as the downward API gives it. */
export const RECONCILER_COMMAND = ['kubernetes', 'reconcile'] as const;
