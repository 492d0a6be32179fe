/**
 * What is used of `@kubernetes/client-node` 1.4.0, after its own `dist/config.d.ts`: tsconfig.json has its name lead here. Its
 * own types are those of all resources of Kubernetes, which take a compiler 700 MiB to read.
 */
import type { RequestOptions } from 'node:https';

export declare class KubeConfig {
  /** $KUBECONFIG, ~/.kube/config, the service account of a pod. */
  loadFromDefault(): void;
  loadFromFile(file: string): void;
  loadFromString(config: string): void;
  getCurrentContext(): string;
  getContextObject(name: string): { namespace?: string } | null;
  getCurrentCluster(): { server?: string } | null;
  /** Puts credentials, certificates and an agent with these into the options. */
  applyToHTTPSOptions(options: RequestOptions): Promise<void>;
}
