/** Requests of a pod to its cluster's API, over TLS with certificates that the test makes. */
import { execFileSync } from 'node:child_process';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it, vi } from 'vitest';
import { clusterOf, podCluster } from '../../src/fleet/cluster.ts';
import { KubeApi, retryAfterMs } from '../../src/fleet/kube.ts';
import { kubeconfigOf } from '../../src/testbed/api-server.ts';

const signal = new AbortController().signal;
let dir: string;
let server: https.Server;
let api: KubeApi;
let pod: NodeJS.ProcessEnv;
let asked: { method: string; url: string; token: string; type: string; body: string }[];
let answer: { status: number; body: string; headers?: Record<string, string> };

beforeAll(async () => {
  dir = mkdtempSync(path.join(os.tmpdir(), 'ht-api-'));
  const at = (name: string): string => path.join(dir, name);
  execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=cluster'],
      ...['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', at('key'), '-out', at('ca.crt')],
    ],
    { stdio: 'ignore' },
  );
  server = https.createServer(
    { key: readFileSync(at('key')), cert: readFileSync(at('ca.crt')) },
    (request, response) => {
      let body = '';
      request.on('data', (chunk) => (body += String(chunk)));
      request.on('end', () => {
        const { method = '', url = '', headers } = request;
        asked.push({
          method,
          url,
          body,
          token: headers.authorization ?? '',
          type: headers['content-type'] ?? '',
        });
        if (answer.status === 0) {
          request.socket.destroy();
          return;
        }
        response.writeHead(answer.status, answer.headers).end(answer.body);
      });
    },
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const port = String((server.address() as AddressInfo).port);
  pod = { KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT_HTTPS: port };
  writeFileSync(at('token'), 'first\n');
  api = new KubeApi(podCluster(pod, dir));
});
beforeEach(() => {
  asked = [];
  answer = { status: 200, body: '{"kind": "Node"}' };
});
afterEach(() => {
  vi.unstubAllEnvs();
});
afterAll(() => {
  api[Symbol.dispose]();
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true });
});

it('gets and applies as the service account, whose token may be another one every time', async () => {
  expect(await api.request({ path: '/api/v1/nodes/n1' }, signal)).toEqual({ kind: 'Node' });
  writeFileSync(path.join(dir, 'token'), 'second\n');
  await api.apply('/api/v1/nodes/n1/status', { kind: 'Node' }, 'me', signal);
  expect(asked).toEqual([
    { method: 'GET', url: '/api/v1/nodes/n1', token: 'Bearer first', type: '', body: '' },
    {
      method: 'PATCH',
      url: '/api/v1/nodes/n1/status?fieldManager=me&force=true',
      token: 'Bearer second',
      type: 'application/apply-patch+yaml',
      body: '{"kind":"Node"}',
    },
  ]);
});

it.each([
  ['what the API refuses', 403, '{"message": "nodes is forbidden"}', 'HT_REFUSED', /403: nodes is forbidden/],
  ['an answer that is no JSON', 200, '<html>', 'HT_UNAVAILABLE', /\/api: JSON expected/],
  ['a connection that ends', 0, '', 'HT_UNAVAILABLE', /\/api: /],
])('says %s', async (_, status, body, code, why) => {
  answer = { status, body };
  await expect(api.request({ path: '/api' }, signal)).rejects.toMatchObject({
    code,
    message: expect.stringMatching(why) as string,
  });
});

it('says when to come back', async () => {
  answer = { status: 429, body: '{}', headers: { 'retry-after': '7' } };
  const e: unknown = await api.request({ path: '/api' }, signal).catch((e: unknown) => e);
  expect(retryAfterMs(e)).toBe(7000);
});

it('trusts no other certificate, and says where it can run', async () => {
  const other = mkdtempSync(path.join(dir, 'other-'));
  writeFileSync(path.join(other, 'token'), 't');
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-subj',
      '/CN=o',
      '-keyout',
      '/dev/null',
      '-out',
      path.join(other, 'ca.crt'),
    ],
    { stdio: 'ignore' },
  );
  using stranger = new KubeApi(podCluster(pod, other));
  await expect(stranger.request({ path: '/api' }, signal)).rejects.toThrow(/self-signed certificate/);
  expect(asked).toEqual([]);
  expect(() => podCluster({})).toThrow(/no pod of a cluster/);
});

it('is in a namespace of its own, at an address that may be one of IPv6', () => {
  writeFileSync(path.join(dir, 'namespace'), 'ours\n');
  const six = { ...pod, KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT_HTTPS: '443' };
  expect(podCluster(six, dir)).toMatchObject({ server: 'https://[fd00::1]:443', namespace: 'ours' });
});

it('is the cluster of a kubeconfig first, and of the pod where there is none', async () => {
  const file = path.join(dir, 'kubeconfig');
  writeFileSync(file, kubeconfigOf('http://127.0.0.1:7', 'theirs'));
  for (const [name, value] of Object.entries(pod)) vi.stubEnv(name, value);
  vi.stubEnv('HOME', dir);
  vi.stubEnv('KUBECONFIG', undefined);
  expect((await clusterOf()).server).toBe(podCluster(pod).server);
  vi.stubEnv('KUBECONFIG', file);
  expect(await clusterOf()).toMatchObject({ server: 'http://127.0.0.1:7', namespace: 'theirs' });
  vi.stubEnv('KUBECONFIG', '');
  expect((await clusterOf(file)).server).toBe('http://127.0.0.1:7');
  mkdirSync(path.join(dir, '.kube'));
  writeFileSync(path.join(dir, '.kube/config'), kubeconfigOf('http://127.0.0.1:8', 'home'));
  expect((await clusterOf()).server).toBe('http://127.0.0.1:8');
});
