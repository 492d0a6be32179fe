/** All objects of the cluster, in the order in which they are to be made. */
import { lazy } from '../../core/lazy.ts';
import { customResources, RECONCILER_CLUSTER_RULES, RECONCILER_ROLE_RULES } from '../../fleet/crd.ts';
import { LABELS, config, daemonSet } from './daemon-set.ts';
import { text, tree, when, withValues } from './template.ts';
import type { Json, Node, Values } from './template.ts';
import { ACCELERATED_LABEL } from './values.ts';
import type { ChartValues } from './values.ts';

const NAME = 'hyperturtle';

const serviceAccount: Node = {
  apiVersion: 'v1',
  kind: 'ServiceAccount',
  metadata: { name: NAME, namespace: text(['Release.Namespace']), labels: LABELS },
  automountServiceAccountToken: false,
};

/** A node's label and condition. The API cannot be told "its own node alone": docs/kubernetes.md. */
const role: Node = when('nodeStatus.enabled', {
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: 'ClusterRole',
  metadata: { name: NAME, labels: LABELS },
  rules: [
    { apiGroups: [''], resources: ['nodes'], verbs: ['get', 'patch'] },
    { apiGroups: [''], resources: ['nodes/status'], verbs: ['patch'] },
  ],
});

const binding: Node = when('nodeStatus.enabled', {
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: 'ClusterRoleBinding',
  metadata: { name: NAME, labels: LABELS },
  roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: NAME },
  subjects: [{ kind: 'ServiceAccount', name: NAME, namespace: text(['Release.Namespace']) }],
});

const reconciler = (kind: string, more: { [key: string]: Node }, namespaced: boolean): Node =>
  when('reconcile.enabled', {
    apiVersion: 'rbac.authorization.k8s.io/v1',
    kind,
    metadata: {
      name: `${NAME}-reconcile`,
      ...(namespaced ? { namespace: text(['Release.Namespace']) } : {}),
      labels: LABELS,
    },
    ...more,
  });

const reconcilerBinding = (role: 'Role' | 'ClusterRole'): Node =>
  reconciler(
    `${role}Binding`,
    {
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: role, name: `${NAME}-reconcile` },
      subjects: [{ kind: 'ServiceAccount', name: NAME, namespace: text(['Release.Namespace']) }],
    },
    role === 'Role',
  );

/** Custom resources: those of fleets, by their names. */
const definitions = (): [string, Node][] =>
  customResources().map((object): [string, Node] => {
    const { metadata } = object as unknown as { metadata: { name: string } };
    return [`custom-resource-${metadata.name.split('.')[0]}`, when('reconcile.enabled', object)];
  });

const rules = (of: typeof RECONCILER_ROLE_RULES | typeof RECONCILER_CLUSTER_RULES): { rules: Node } => ({
  rules: of,
});

const runtimeClass: Node = when('runtimeClass.enabled', {
  apiVersion: 'node.k8s.io/v1',
  kind: 'RuntimeClass',
  metadata: { name: text(['runtimeClass.name']), labels: LABELS },
  handler: text(['runtimeClass.handler']),
  overhead: { podFixed: tree('runtimeClass.overhead') },
  scheduling: { nodeSelector: { [ACCELERATED_LABEL]: 'true' } },
});

/** By the name of their file in the chart. */
export const objects = lazy(
  (): ReadonlyMap<string, Node> =>
    new Map([
      ...definitions(),
      ['service-account', serviceAccount],
      ['reconcile-role', reconciler('Role', rules(RECONCILER_ROLE_RULES), true)],
      ['reconcile-role-binding', reconcilerBinding('Role')],
      ['reconcile-cluster-role', reconciler('ClusterRole', rules(RECONCILER_CLUSTER_RULES), false)],
      ['reconcile-cluster-role-binding', reconcilerBinding('ClusterRole')],
      ['cluster-role', role],
      ['cluster-role-binding', binding],
      ['config-map', config],
      ['runtime-class', runtimeClass],
      ['daemon-set', daemonSet],
    ]),
);

/** Without Helm somebody must make it; our pods are privileged. */
const namespaceOf = (name: string): Json => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name, labels: { ...LABELS, 'pod-security.kubernetes.io/enforce': 'privileged' } },
});

/** What `helm template` makes of the chart, with these values. */
export function objectsOf(values: ChartValues, namespace: string): Json[] {
  const all: Values = { ...(values as unknown as Values), Release: { Namespace: namespace } };
  return [...objects().values()].flatMap((node) => withValues(node, all) ?? []);
}

/** The same and their namespace, as plain manifests. */
export const manifestsOf = (values: ChartValues, namespace: string): Json[] => [
  namespaceOf(namespace),
  ...objectsOf(values, namespace),
];
