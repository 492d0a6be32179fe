/** The custom resource definitions are structural schemas, and say of an object what the reconciler says of it. */
import { describe, expect, it } from 'vitest';
import { RECONCILER_CLUSTER_RULES, RECONCILER_ROLE_RULES, customResources } from '../../../src/fleet/crd.ts';
import { HyperupcallSet, NodeStatus } from '../../../src/fleet/spec.ts';
import { schemaProblems, structuralProblems } from '../../support/structural.ts';

const [sets, nodes] = customResources().map(
  (c) =>
    c as {
      metadata: { name: string };
      spec: { names: { kind: string }; versions: { schema: { openAPIV3Schema: object } }[] };
    },
);
const schemaOf = (c: typeof sets): object => c?.spec.versions[0]?.schema.openAPIV3Schema ?? {};

const DIGEST = 'a'.repeat(64);
const configMap = { name: 'npf-1', key: 'npf.bpf.o' };
const set = (spec: object): object => ({ metadata: { name: 'npf', uid: 'u1' }, spec });

/** Specs, and whether they are right. */
const SPECS: [string, object, boolean][] = [
  ['an object of a ConfigMap', { object: { configMap } }, true],
  [
    'all that there is',
    {
      object: {
        configMap,
        sha256: DIGEST,
        signature: { keyId: '0123456789abcdef', value: `${'A'.repeat(86)}==` },
        constants: { limit: 'BQAAAA==' },
      },
      rollout: {
        object: { oci: { image: `registry.example:5000/turtle/npf@sha256:${DIGEST}`, file: 'npf.bpf.o' } },
        percent: 0.5,
        labels: { canary: 'true' },
      },
      links: [{ hook: 'exit', program: 'on_exit', order: 3, options: { exits: ['cpuid'], after: true } }],
      nodeSelector: { 'hyperturtle.io/pool': 'a' },
    },
    true,
  ],
  ['a rollout alone', { rollout: { object: { configMap }, percent: 1 } }, true],
  ['fields of a newer definition', { object: { configMap }, novelty: 1 }, true],
  ['nothing', {}, false],
  ['an object of nowhere', { object: {} }, false],
  [
    'an object of two places',
    { object: { configMap, oci: { image: `r.example/n@sha256:${DIGEST}`, file: 'f' } } },
    false,
  ],
  ['an image by a tag', { object: { oci: { image: 'r.example/n:latest', file: 'f' } } }, false],
  ['a percentage over 100', { rollout: { object: { configMap }, percent: 101 } }, false],
  ['a rollout of nothing', { object: { configMap }, rollout: { percent: 1 } }, false],
  ['a signature that is none', { object: { configMap, signature: { keyId: 'x', value: '' } } }, false],
  ['a hook that is no name', { object: { configMap }, links: [{ hook: '../x' }] }, false],
  ['links of no hook', { object: { configMap }, links: [{ target: 'web' }] }, false],
  ['a label that is a number', { object: { configMap }, nodeSelector: { a: 1 } }, false],
];

describe('definitions of custom resources', () => {
  it('are named after their group', () => {
    expect([sets?.metadata.name, nodes?.metadata.name]).toEqual([
      'hyperupcallsets.hyperturtle.io',
      'hyperupcallnodes.hyperturtle.io',
    ]);
  });

  it.each([
    ['HyperupcallSet', sets],
    ['HyperupcallNode', nodes],
  ])('%s has a structural schema', (_kind, definition) => {
    expect(structuralProblems(schemaOf(definition))).toEqual([]);
  });

  it('are refused by the test when they are not structural', () => {
    expect(structuralProblems({ properties: { a: { type: 'string' } } })).toEqual(['.: no type']);
    expect(
      structuralProblems({
        type: 'object',
        additionalProperties: false,
        anyOf: [{ properties: { a: { type: 'string' } } }],
      }),
    ).toEqual(['.: additionalProperties', '.anyOf.0.properties.a: type within anyOf']);
  });

  it.each(SPECS)('%s: the API server and the reconciler agree', (_what, spec, right) => {
    expect(schemaProblems(schemaOf(sets), set(spec)).length === 0, 'API server').toBe(right);
    expect(HyperupcallSet().safeParse(set(spec)).success, 'reconciler').toBe(right);
  });

  it('allow the status that a reconciler writes', () => {
    const status = {
      agent: '0.2.0',
      connected: true,
      nestedGuests: { registered: 100, notIndexed: 0 },
      summary: { wanted: 1, linked: 0, refused: 1 },
      sets: [
        {
          name: 'npf',
          generation: 3,
          version: 'rollout',
          phase: 'Refused',
          kind: 'REFUSED',
          rule: 'helper',
          message: 'no',
          links: 0,
          since: new Date().toISOString(),
        },
      ],
    };
    expect(schemaProblems(schemaOf(nodes), { status })).toEqual([]);
    expect(NodeStatus().safeParse(status).success).toBe(true);
    const wrong = { ...status, sets: [{ ...status.sets[0], phase: 'Fine' }] };
    expect(schemaProblems(schemaOf(nodes), { status: wrong })).toEqual(['.status.sets.0.phase: enum']);
  });

  it('are all that the rules name, and ConfigMaps are not listed', () => {
    const rules = [...RECONCILER_ROLE_RULES, ...RECONCILER_CLUSTER_RULES];
    expect(rules.map((r) => [r.resources[0], r.verbs.join(' ')])).toEqual([
      ['hyperupcallsets', 'get list watch'],
      ['hyperupcallnodes', 'get create patch'],
      ['hyperupcallnodes/status', 'patch'],
      ['configmaps', 'get'],
      ['nodes', 'get list watch'],
    ]);
  });
});
