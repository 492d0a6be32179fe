/** Requests of a pod to its cluster's API, over TLS with certificates that the test makes. */
import { execFileSync } from 'node:child_process';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { ClusterApi, placeInPod } from '../../src/kubernetes/api.ts';

const signal = new AbortController().signal;
let dir: string;
let server: https.Server;
let api: ClusterApi;
let asked: { method: string; url: string; token: string; type: string; body: string }[];
let answer: { status: number; body: string };

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
        response.writeHead(answer.status).end(answer.body);
      });
    },
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const port = String((server.address() as AddressInfo).port);
  writeFileSync(at('token'), 'first\n');
  api = new ClusterApi({ host: '127.0.0.1', port, account: dir });
});
beforeEach(() => {
  asked = [];
  answer = { status: 200, body: '{"kind": "Node"}' };
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true });
});

it('gets and applies as the service account, whose token may be another one every time', async () => {
  expect(await api.get('/api/v1/nodes/n1', signal)).toEqual({ kind: 'Node' });
  writeFileSync(path.join(dir, 'token'), 'second\n');
  await api.apply('/api/v1/nodes/n1/status', { kind: 'Node' }, signal);
  expect(asked).toEqual([
    { method: 'GET', url: '/api/v1/nodes/n1', token: 'Bearer first', type: '', body: '' },
    {
      method: 'PATCH',
      url: '/api/v1/nodes/n1/status?fieldManager=hyperturtle-node-status&force=true',
      token: 'Bearer second',
      type: 'application/apply-patch+yaml',
      body: '{"kind":"Node"}',
    },
  ]);
});

it.each([
  ['what the API refuses', 403, '{"message": "nodes is forbidden"}', /status 403: nodes is forbidden/],
  ['an answer that is no JSON', 502, '<html>', /GET \/api: .*JSON/],
  ['a connection that ends', 0, '', /GET \/api: /],
])('says %s', async (_, status, body, why) => {
  answer = { status, body };
  await expect(api.get('/api', signal)).rejects.toMatchObject({
    code: 'HT_UNAVAILABLE',
    message: expect.stringMatching(why) as string,
  });
});

it('trusts no other certificate, and says where it can run', async () => {
  const { port } = server.address() as AddressInfo;
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
  const stranger = new ClusterApi({ host: '127.0.0.1', port: String(port), account: other });
  await expect(stranger.get('/api', signal)).rejects.toThrow(/self-signed certificate/);
  expect(asked).toEqual([]);
  expect(() => placeInPod({})).toThrow(/no pod of a cluster/);
  expect(placeInPod({ KUBERNETES_SERVICE_HOST: 'h', KUBERNETES_SERVICE_PORT_HTTPS: '443' })).toMatchObject({
    host: 'h',
    port: '443',
  });
});
