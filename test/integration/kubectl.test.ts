/** Manifests before Debian's kubectl: `--dry-run=client`, with a stand-in for an API server that only says what it knows. */
import { execFile } from 'node:child_process';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { manifestsOf } from '../../src/kubernetes/manifests/objects.ts';
import { yamlOf } from '../../src/kubernetes/manifests/template.ts';
import type { Json } from '../../src/kubernetes/manifests/template.ts';
import { chartValues } from '../../src/kubernetes/manifests/values.ts';
import { VALUE_SETS } from '../support/chart-values.ts';
import { debTree } from '../support/deb-tree.ts';

const tree = debTree('kubectl', ['kubectl|kubernetes-client']);
const why = typeof tree === 'string' ? tree : undefined;

interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string };
}

type Printed = KubeObject & { items?: KubeObject[] };

/** Kinds by group and version, with their names in paths; a star: of the whole cluster. */
const KNOWN: Record<string, Record<string, string>> = {
  v1: { Namespace: 'namespaces*', ServiceAccount: 'serviceaccounts', ConfigMap: 'configmaps' },
  'apiextensions.k8s.io/v1': { CustomResourceDefinition: 'customresourcedefinitions*' },
  'apps/v1': { DaemonSet: 'daemonsets' },
  'rbac.authorization.k8s.io/v1': {
    ClusterRole: 'clusterroles*',
    ClusterRoleBinding: 'clusterrolebindings*',
    Role: 'roles',
    RoleBinding: 'rolebindings',
  },
  'node.k8s.io/v1': { RuntimeClass: 'runtimeclasses*' },
};

function resources(groupVersion: string): object {
  return {
    kind: 'APIResourceList',
    apiVersion: 'v1',
    groupVersion,
    resources: Object.entries(KNOWN[groupVersion] ?? {}).map(([kind, name]) => ({
      name: name.replace('*', ''),
      singularName: '',
      namespaced: !name.endsWith('*'),
      kind,
      verbs: ['create', 'get', 'patch'],
    })),
  };
}

function discovery(at: string): object | undefined {
  const groups = Object.keys(KNOWN).filter((g) => g.includes('/'));
  if (at === '/api') return { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] };
  if (at === '/api/v1') return resources('v1');
  if (at === '/apis')
    return {
      kind: 'APIGroupList',
      apiVersion: 'v1',
      groups: groups.map((groupVersion) => {
        const version = { groupVersion, version: groupVersion.split('/')[1] };
        return { name: groupVersion.split('/')[0], versions: [version], preferredVersion: version };
      }),
    };
  const group = groups.find((g) => at === `/apis/${g}`);
  return group === undefined ? undefined : resources(group);
}

describe.skipIf(why !== undefined)(`kubectl${why ? ` (skipped: ${why})` : ''}`, () => {
  let dir: string;
  let server: http.Server;
  const asked: string[] = [];
  beforeAll(async () => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'ht-kubectl-'));
    server = http.createServer((request, response) => {
      const at = request.url?.replace(/\?.*/, '') ?? '';
      asked.push(`${request.method} ${at}`);
      const found = request.method === 'GET' ? discovery(at) : undefined;
      response.writeHead(found ? 200 : 404, { 'content-type': 'application/json' });
      response.end(
        JSON.stringify(found ?? { kind: 'Status', apiVersion: 'v1', status: 'Failure', code: 404 }),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    writeFileSync(
      path.join(dir, 'config'),
      JSON.stringify({
        ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'c', users: [] },
        clusters: [{ name: 'c', cluster: { server: `http://127.0.0.1:${port}` } }],
        contexts: [{ name: 'c', context: { cluster: 'c', user: '' } }],
      }),
    );
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
    rmSync(dir, { recursive: true });
  });

  async function dryRun(objects: readonly unknown[]): Promise<KubeObject[]> {
    if (typeof tree === 'string') return [];
    const file = path.join(dir, 'manifests.yaml');
    writeFileSync(file, yamlOf(objects as Json[]));
    const args = ['create', '--dry-run=client', '--validate=false', '-o', 'json', '-f', file];
    const env = { ...tree.env, HOME: dir, KUBECONFIG: path.join(dir, 'config') };
    const { stdout } = await promisify(execFile)(path.join(tree.root, 'usr/bin/kubectl'), args, {
      env,
      timeout: 60_000,
    });
    // one object after another, or a list
    const made = JSON.parse(`[${stdout.replace(/\n\}\n\{/g, '\n},{')}]`) as Printed[];
    return made.flatMap((o) => o.items ?? [o]);
  }
  const names = (objects: readonly KubeObject[]): string[] =>
    objects.map((o) => [o.apiVersion, o.kind, o.metadata.namespace ?? '', o.metadata.name].join(' ')).sort();

  it.each(VALUE_SETS)('takes every manifest with %s, by --dry-run=client', async (_, values) => {
    const objects = manifestsOf(chartValues('0.2.0', values), 'ht');
    const made = await dryRun(objects);
    expect(names(made)).toEqual(names(objects as unknown as KubeObject[]));
    expect(made).toEqual(
      expect.arrayContaining(objects.map((o) => expect.objectContaining(o as object) as unknown)),
    );
    expect(asked.filter((a) => !a.startsWith('GET '))).toEqual([]);
  });

  it('refuses a kind that there is not', async () => {
    await expect(
      dryRun([{ apiVersion: 'apps/v1', kind: 'DemonSet', metadata: { name: 'x' } }]),
    ).rejects.toThrow(/no matches for kind/);
  });
});
