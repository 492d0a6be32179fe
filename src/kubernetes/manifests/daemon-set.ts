/** What runs on every node: the module is loaded first, files of the node are put there, then agent and plugins run. */
import { AGENT_SOCKET, PLACES } from '../../core/default-paths.ts';
import { hash, json, text, tree, value, when, whenIs } from './template.ts';
import type { Node } from './template.ts';
import { RESOURCE } from './values.ts';

const NAME = 'hyperturtle';
export const LABELS = { 'app.kubernetes.io/name': NAME };

/** Where images have this package, and nodes after the first container of a pod has run: one version beside another. */
const APP = '/opt/hyperturtle';

/**
 * Never takes a module away or puts another in its place: nested guests that run have their memory in it. Its next version is
 * loaded when the node boots. vfio-pci is for NICs that pods get.
 */
const LOAD_MODULE = `set -e
chroot /host modprobe vfio-pci || echo 'no vfio-pci: pods get no NICs'
if [ -e /sys/module/hyperturtle_guest ]; then echo 'the module is loaded'; exit 0; fi
`;
const FROM_HOST = `${LOAD_MODULE}chroot /host modprobe hyperturtle_guest\n`;
const FROM_IMAGE = `${LOAD_MODULE}insmod "/modules/$(uname -r)/hyperturtle_guest.ko"\n`;

/**
 * The package, for the CNI plugin and for VMMs that the node's runtime starts by `hyperturtle vmm`. A version is there as a
 * whole or not at all, and older ones stay: they may run.
 */
const PUT_FILES = `set -e
version=$(readlink ${APP}/current)
to=/node/hyperturtle/$version
if [ ! -d "$to" ]; then
  rm -rf "$to.new"
  mkdir -p "$to.new"
  cp -a "${APP}/$version/." "$to.new/"
  mv "$to.new" "$to"
fi
put() {
  printf '#!/bin/sh\nexec ${APP}/%s/bin/node ${APP}/%s/dist/src/cli/%s.cjs "$@"\n' "$version" "$version" "$2" >"$1.new"
  chmod 755 "$1.new"
  mv "$1.new" "$1"
}
mkdir -p /node/hyperturtle/bin
put /node/hyperturtle/bin/hyperturtle main
if [ -d /node/cni ]; then put /node/cni/hyperturtle-cni cni-main; fi
`;

const mount = (name: string, mountPath: string, more: { [key: string]: Node } = {}): Node => ({
  name,
  mountPath,
  ...more,
});
const READ_ONLY = { readOnly: true };
const hostPath = (name: string, path: Node, type?: string): Node => ({
  name,
  hostPath: { path, ...(type === undefined ? {} : { type }) },
});

const image = (path: string): { [key: string]: Node } => ({
  image: text([path], ':', ['image.tag']),
  imagePullPolicy: value('image.pullPolicy'),
});

const agentImage = image('image.agent');

/** All of a node's devices, mounts and processes: this is the hypervisor's own part, not a tenant's. */
const PRIVILEGED: Node = { privileged: true, readOnlyRootFilesystem: true };

const loadModule = (name: string, from: { [key: string]: Node }, script: string): Node => ({
  name,
  ...from,
  command: ['sh', '-c', script],
  securityContext: PRIVILEGED,
  volumeMounts: [mount('host', '/host', READ_ONLY), mount('sys', '/sys')],
});

const initContainers: Node = [
  whenIs('module.source', 'host', loadModule('module', agentImage, FROM_HOST)),
  whenIs(
    'module.source',
    'image',
    loadModule(
      'module',
      { image: text(['module.image']), imagePullPolicy: value('image.pullPolicy') },
      FROM_IMAGE,
    ),
  ),
  {
    name: 'node-files',
    ...agentImage,
    command: ['sh', '-c', PUT_FILES],
    securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false },
    volumeMounts: [mount('package', '/node/hyperturtle'), when('cni.enabled', mount('cni-bin', '/node/cni'))],
  },
];

const agent: Node = {
  name: 'agent',
  ...agentImage,
  args: ['guest', 'agent'],
  securityContext: PRIVILEGED,
  // its socket is there when it has read its configuration and has its state
  readinessProbe: { exec: { command: ['test', '-S', AGENT_SOCKET] }, periodSeconds: 5 },
  resources: tree('agent.resources'),
  volumeMounts: [
    // turtlefs is mounted below it, and the node's VMMs must see that
    mount('run', PLACES.run.path, { mountPropagation: 'Bidirectional' }),
    mount('state', PLACES.state.path),
    mount('config', '/etc/hyperturtle', READ_ONLY),
    mount('dev', '/dev'),
    mount('tmp', '/tmp'),
  ],
};

const devicePlugin: Node = {
  name: 'device-plugin',
  ...image('image.devicePlugin'),
  args: [
    'kubernetes',
    'device-plugin',
    '--resource',
    RESOURCE,
    whenIs('devicePlugin.nics', 'all', text('--nics=', ['devicePlugin.nics']), true),
  ],
  // writes to sysfs, to bind NICs, and sees who has a device open
  securityContext: PRIVILEGED,
  resources: tree('devicePlugin.resources'),
  volumeMounts: [
    mount('run', PLACES.run.path, { mountPropagation: 'HostToContainer' }),
    mount('kubelet', '/var/lib/kubelet/device-plugins'),
    mount('sys', '/sys'),
    mount('tmp', '/tmp'),
  ],
};

const nodeStatus: Node = {
  name: 'node-status',
  ...agentImage,
  args: ['kubernetes', 'node-status'],
  env: [{ name: 'NODE_NAME', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } }],
  securityContext: {
    readOnlyRootFilesystem: true,
    allowPrivilegeEscalation: false,
    capabilities: { drop: ['ALL'] },
  },
  resources: tree('nodeStatus.resources'),
  volumeMounts: [mount('run', PLACES.run.path, READ_ONLY), mount('tmp', '/tmp')],
};

const reconcile: Node = {
  name: 'reconcile',
  ...agentImage,
  args: ['kubernetes', 'reconcile', text('--metrics=0.0.0.0:', ['reconcile.metricsPort'])],
  ports: [{ name: 'reconcile', containerPort: value('reconcile.metricsPort'), protocol: 'TCP' }],
  env: [{ name: 'NODE_NAME', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } }],
  securityContext: {
    readOnlyRootFilesystem: true,
    allowPrivilegeEscalation: false,
    capabilities: { drop: ['ALL'] },
  },
  resources: tree('reconcile.resources'),
  volumeMounts: [mount('run', PLACES.run.path, READ_ONLY), mount('tmp', '/tmp')],
};

const volumes: Node = [
  hostPath('run', PLACES.run.path, 'DirectoryOrCreate'),
  hostPath('state', PLACES.state.path, 'DirectoryOrCreate'),
  hostPath('dev', '/dev'),
  hostPath('sys', '/sys'),
  { name: 'config', configMap: { name: NAME } },
  { name: 'tmp', emptyDir: { medium: 'Memory', sizeLimit: '16Mi' } },
  whenIs('module.source', 'none', hostPath('host', '/'), true),
  hostPath('package', APP, 'DirectoryOrCreate'),
  when('cni.enabled', hostPath('cni-bin', text(['cni.binDir']), 'DirectoryOrCreate')),
  when('devicePlugin.enabled', hostPath('kubelet', text(['devicePlugin.kubeletDir']), 'DirectoryOrCreate')),
];

export const config: Node = {
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name: NAME, namespace: text(['Release.Namespace']), labels: LABELS },
  data: { 'guest.yaml': json('agent.config') },
};

export const daemonSet: Node = {
  apiVersion: 'apps/v1',
  kind: 'DaemonSet',
  metadata: { name: NAME, namespace: text(['Release.Namespace']), labels: LABELS },
  spec: {
    selector: { matchLabels: LABELS },
    // the old agent ends before the new one starts: its port, sockets and state are one's alone. Nothing is drained
    updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } },
    template: {
      metadata: {
        labels: LABELS,
        // the agent reads its configuration when it starts
        annotations: { 'hyperturtle.io/config': hash('agent.config') },
      },
      spec: {
        serviceAccountName: NAME,
        automountServiceAccountToken: true,
        // VMMs are processes of the node; the agent copies descriptors from them
        hostPID: true,
        priorityClassName: text(['priorityClassName']),
        nodeSelector: tree('nodeSelector'),
        tolerations: tree('tolerations'),
        imagePullSecrets: tree('imagePullSecrets'),
        terminationGracePeriodSeconds: 20,
        initContainers,
        containers: [
          agent,
          when('devicePlugin.enabled', devicePlugin),
          when('nodeStatus.enabled', nodeStatus),
          when('reconcile.enabled', reconcile),
        ],
        volumes,
      },
    },
  },
};
