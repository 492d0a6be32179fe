/**
 * Where the API of a cluster is, whom to trust there, and how to say who asks. A pod's service account is read here; what is in
 * a configuration of kubectl's (client certificates, exec plugins, proxies) is `@kubernetes/client-node`'s work, which is loaded
 * for it alone.
 */
import { existsSync, readFileSync } from 'node:fs';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import type { KubeConfig } from '@kubernetes/client-node';
import { HyperturtleError, messageOf } from '../core/errors.ts';
import { textIfThere } from '../core/files.ts';

/** A cluster and who asks it. */
export interface Cluster {
  /** `https://HOST:PORT`, and what all paths begin with, if anything. */
  readonly server: string;
  /** Where objects are when nobody says another namespace. */
  readonly namespace: string | undefined;
  /** Headers, TLS and agent of one request: tokens and certificates are others later. */
  options(): Promise<https.RequestOptions>;
}

/** Where kubelet puts token, certificates and namespace. */
const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';
const HOST = 'KUBERNETES_SERVICE_HOST';
const PORT = 'KUBERNETES_SERVICE_PORT_HTTPS';

const isPod = (env: NodeJS.ProcessEnv): boolean => Boolean(env[HOST] && env[PORT]);

/** The cluster that this pod is in, as its service account in the directory `account`. Throws HT_UNSUPPORTED elsewhere. */
export function podCluster(env: NodeJS.ProcessEnv = process.env, account = ACCOUNT): Cluster {
  if (!isPod(env))
    throw new HyperturtleError('HT_UNSUPPORTED', `this is no pod of a cluster: ${HOST} and ${PORT} expected`);
  const host = env[HOST] ?? '';
  const read = (name: string): string => readFileSync(path.join(account, name), 'utf8');
  return {
    server: `https://${host.includes(':') ? `[${host}]` : host}:${env[PORT] ?? ''}`,
    namespace: textIfThere(path.join(account, 'namespace')) || undefined,
    // the token is another one each hour
    options: () => {
      const ca = read('ca.crt');
      const headers = { authorization: `Bearer ${read('token').trim()}` };
      return Promise.resolve({ ca, headers, agent: new https.Agent({ ca }) });
    },
  };
}

/**
 * What `file` names, or what kubectl would use: $KUBECONFIG, ~/.kube/config, the pod's service account. Throws HT_CONFIG.
 */
export async function clusterOf(file?: string): Promise<Cluster> {
  const said = file ?? process.env['KUBECONFIG'] ?? '';
  if (said === '' && !existsSync(path.join(os.homedir(), '.kube/config')) && isPod(process.env))
    return podCluster();
  return ofKubeconfig(await kubeconfig(file), file);
}

async function kubeconfig(file: string | undefined): Promise<KubeConfig> {
  const { KubeConfig: Config } = await import('@kubernetes/client-node');
  const config = new Config();
  try {
    if (file === undefined) config.loadFromDefault();
    else config.loadFromFile(file);
  } catch (e) {
    throw new HyperturtleError('HT_CONFIG', `${nameOf(file)}: a kubeconfig expected: ${messageOf(e)}`, {
      cause: e,
    });
  }
  return config;
}

function ofKubeconfig(config: KubeConfig, file: string | undefined): Cluster {
  const server = config.getCurrentCluster()?.server;
  if (!server)
    throw new HyperturtleError('HT_CONFIG', `${nameOf(file)} names no cluster in its current context`);
  return {
    server: server.replace(/\/$/, ''),
    namespace: config.getContextObject(config.getCurrentContext())?.namespace,
    options: async () => {
      const options: https.RequestOptions = {};
      await config.applyToHTTPSOptions(options);
      if (!options.auth) return options;
      const authorization = `Basic ${Buffer.from(options.auth).toString('base64')}`;
      return { ...options, headers: { ...(options.headers as object), authorization } };
    },
  };
}

const nameOf = (file: string | undefined): string => file ?? 'the default kubeconfig';
