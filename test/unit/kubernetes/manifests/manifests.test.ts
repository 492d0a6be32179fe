/** Manifests and chart: valid objects of the API, the same from both, and nothing that would stop nested guests. */
import { CustomResourceDefinition } from 'kubernetes-models/apiextensions.k8s.io/v1/CustomResourceDefinition';
import { DaemonSet } from 'kubernetes-models/apps/v1/DaemonSet';
import { RuntimeClass } from 'kubernetes-models/node.k8s.io/v1/RuntimeClass';
import { ClusterRole } from 'kubernetes-models/rbac.authorization.k8s.io/v1/ClusterRole';
import { ClusterRoleBinding } from 'kubernetes-models/rbac.authorization.k8s.io/v1/ClusterRoleBinding';
import { Role } from 'kubernetes-models/rbac.authorization.k8s.io/v1/Role';
import { RoleBinding } from 'kubernetes-models/rbac.authorization.k8s.io/v1/RoleBinding';
import { ConfigMap } from 'kubernetes-models/v1/ConfigMap';
import { Namespace } from 'kubernetes-models/v1/Namespace';
import { ServiceAccount } from 'kubernetes-models/v1/ServiceAccount';
import { describe, expect, it } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { AgentConfig } from '../../../../src/guest/agent/config.ts';
import { chartFiles } from '../../../../src/kubernetes/manifests/chart.ts';
import { manifestsOf, objectsOf } from '../../../../src/kubernetes/manifests/objects.ts';
import { yamlOf } from '../../../../src/kubernetes/manifests/template.ts';
import type { Json } from '../../../../src/kubernetes/manifests/template.ts';
import { ChartValues, chartValues } from '../../../../src/kubernetes/manifests/values.ts';
import { VALUE_SETS } from '../../../support/chart-values.ts';
import { renderTemplate } from '../../../support/helm-subset.ts';

interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string };
}
const TAG = '0.2.0';
const NAMESPACE = 'ht';

/** Kubernetes's own schemas (npm package kubernetes-models, made of its OpenAPI). */
const KINDS = [
  ...[DaemonSet, RuntimeClass, ClusterRole, ClusterRoleBinding],
  ...[CustomResourceDefinition, Role, RoleBinding],
  ...[ConfigMap, Namespace, ServiceAccount],
];

/** Throws what the schema says against it. */
function validate(object: KubeObject): void {
  const Kind = KINDS.find((k) => k.kind === object.kind && k.apiVersion === object.apiVersion);
  if (!Kind) throw new Error(`no schema of ${object.apiVersion} ${object.kind}`);
  new Kind(object as never).validate();
}

const manifests = (values: object): KubeObject[] =>
  manifestsOf(chartValues(TAG, values), NAMESPACE) as unknown as KubeObject[];

interface Container {
  command: string[];
  volumeMounts: { name: string; readOnly?: unknown }[];
}
interface MadeSet extends KubeObject {
  spec: {
    updateStrategy: object;
    template: {
      metadata: { annotations: Record<string, string> };
      spec: { initContainers: Container[]; containers: Container[]; volumes: { name: string }[] };
    };
  };
}
function find<T extends KubeObject>(objects: KubeObject[], kind: string): T {
  const found = objects.find((o) => o.kind === kind);
  if (!found) throw new Error(`no ${kind}`);
  return found as T;
}
const setOf = (values: object): MadeSet => find(manifests(values), 'DaemonSet');
const hashOf = (values: object): string | undefined =>
  setOf(values).spec.template.metadata.annotations['hyperturtle.io/config'];

describe.each(VALUE_SETS)('with %s', (_, values) => {
  it('every manifest is valid by the schema of its kind', () => {
    for (const object of manifests(values)) validate(object);
  });

  it('the YAML that is printed is those objects', () => {
    const made = manifests(values);
    expect(parseAllDocuments(yamlOf(made as unknown as Json[])).map((d) => d.toJS() as unknown)).toEqual(
      made,
    );
  });

  it('the chart renders to the same objects', () => {
    const scope = { Values: chartValues(TAG, values), Release: { Namespace: NAMESPACE } };
    const rendered = [...chartFiles(TAG)]
      .filter(([name]) => name.endsWith('.yaml') && name.startsWith('templates/'))
      .flatMap(([, template]) => (parse(renderTemplate(template, scope)) as unknown) ?? []);
    expect(rendered).toEqual(objectsOf(chartValues(TAG, values), NAMESPACE));
  });

  it("the agent's configuration is one that the agent takes, and another pod follows another one", () => {
    const { data } = find<KubeObject & { data: Record<string, string> }>(manifests(values), 'ConfigMap');
    expect(AgentConfig().safeParse(parse(data['guest.yaml'] ?? '')).success).toBe(true);
    expect(hashOf(values)).toMatch(/^[0-9a-f]{64}$/);
    expect(hashOf({ ...values, agent: { config: { links: [], pingEveryS: 20 } } })).not.toBe(hashOf(values));
  });

  it('every volume that is mounted is there, and every one that is there is mounted', () => {
    const { spec } = setOf(values).spec.template;
    const mounted = [...spec.initContainers, ...spec.containers].flatMap((c) =>
      c.volumeMounts.map((m) => m.name),
    );
    const names = (all: string[]): string[] => [...new Set(all)].filter((name) => name !== 'sys').sort();
    expect(names(mounted)).toEqual(names(spec.volumes.map((v) => v.name)));
  });
});

describe('an upgrade', () => {
  const { spec } = setOf({});
  it('replaces the agent of one node at a time, never two of one node at once, and drains nothing', () => {
    expect(spec.updateStrategy).toEqual({
      type: 'RollingUpdate',
      rollingUpdate: { maxUnavailable: 1, maxSurge: 0 },
    });
  });
  it('leaves the module that is loaded, and the mount of turtlefs, which nested guests have their memory in', () => {
    const all = JSON.stringify(spec.template);
    expect(all).not.toMatch(/rmmod|modprobe -r|umount|rm -rf \/run/);
    const [load] = spec.template.spec.initContainers;
    expect(load?.command[2]).toMatch(/if \[ -e \/sys\/module\/hyperturtle_guest \]; then .* exit 0; fi/);
    expect(spec.template.spec.containers[0]?.volumeMounts).toContainEqual({
      name: 'run',
      mountPath: '/run/hyperturtle',
      mountPropagation: 'Bidirectional',
    });
  });
});

describe('values', () => {
  it.each([
    [{ module: { source: 'dkms' } }, /module.source/],
    [{ devicePlugin: { nics: -1 } }, /devicePlugin.nics/],
    [{ agent: { config: { objects: 7 } } }, /agent.config.objects/],
    [{ nix: 1 }, /nix/],
  ])('%o are refused with their path', (values, why) => {
    expect(() => chartValues(TAG, values)).toThrow(why);
  });

  it("the chart's own values and schema are the defaults and theirs", () => {
    const files = chartFiles(TAG);
    expect(ChartValues().parse(parse(files.get('values.yaml') ?? ''))).toEqual(chartValues(TAG, {}));
    expect(JSON.parse(files.get('values.schema.json') ?? '')).toMatchObject({
      additionalProperties: false,
      properties: { module: { properties: { source: { enum: ['host', 'image', 'none'] } } } },
    });
  });
});

it('a manifest that is wrong is found by the schema', () => {
  const made = setOf({});
  Object.assign(made.spec.template.spec.containers[0]?.volumeMounts[0] ?? {}, { readOnly: 'yes' });
  expect(() => validate(made)).toThrow(/readOnly/);
});
