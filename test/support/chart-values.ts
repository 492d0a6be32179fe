/** Three sets of values for the chart: the defaults, as little as there can be, and everything otherwise. */
export const VALUE_SETS: readonly (readonly [name: string, values: object])[] = [
  ['the defaults', {}],
  [
    'the agent alone',
    {
      module: { source: 'none' },
      cni: { enabled: false },
      devicePlugin: { enabled: false },
      nodeStatus: { enabled: false },
      reconcile: { enabled: false },
      runtimeClass: { enabled: false },
      tolerations: [],
    },
  ],
  [
    'everything otherwise',
    {
      image: { agent: 'registry.example/ht/agent', tag: 'v1"%d', pullPolicy: 'Always' },
      imagePullSecrets: [{ name: 'pull' }],
      nodeSelector: { 'hyperturtle.io/node': null, 'kubernetes.io/os': 'linux', yes: 'no' },
      tolerations: [{ key: 'kata', operator: 'Equal', value: 'true', effect: 'NoSchedule' }],
      module: { source: 'image', image: 'registry.example/ht/module:6.12' },
      agent: {
        config: { objects: { npf: null, other: { file: '/a b/<x>.o' } }, links: [], metrics: { port: 9465 } },
        resources: { limits: { cpu: '1' } },
      },
      cni: { binDir: '/usr/libexec/cni' },
      devicePlugin: { nics: 'all', kubeletDir: '/srv/kubelet/device-plugins' },
      reconcile: { enabled: true },
      runtimeClass: { name: 'fast', handler: 'kata-fast', overhead: { memory: '1Gi' } },
    },
  ],
];
