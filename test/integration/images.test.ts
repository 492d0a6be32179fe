/** The container images: the same bytes twice, what they hold, and run by podman as a node's pods would be. */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildImages, librariesLacking } from '../../src/install/images/build.ts';
import type { Contents } from '../../src/install/images/build.ts';
import { objectsOf } from '../../src/kubernetes/manifests/objects.ts';
import { chartValues } from '../../src/kubernetes/manifests/values.ts';
import { compiledSources } from '../support/compiled.ts';
import { FakeKubelet } from '../support/kubelet.ts';
import { NicAgent } from '../support/nic-agent.ts';
import { Podman, podmanTree } from '../support/podman.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const VERSION = '0.2.0';
const EPOCH_S = 1_700_000_000;
const tree = podmanTree();
const lacking = await librariesLacking(process.execPath);
const whyNone =
  lacking.length === 0 ? undefined : `Node.js of this machine is in parts: ${lacking[0]} and others`;
const why = whyNone ?? (typeof tree === 'string' ? tree : undefined);

interface Manifest {
  config: { digest: string };
  layers: { digest: string; size: number }[];
}
interface Index {
  manifests: { digest: string; annotations: Record<string, string> }[];
}

let dir: string;
let made: { names: string[]; contents: Contents };
const at = (...p: string[]): string => path.join(dir, ...p);
const blob = (digest: string): string => at('one/blobs/sha256', digest.replace('sha256:', ''));
const read = <T>(file: string): T => JSON.parse(readFileSync(file, 'utf8')) as T;

function build(name: string): Promise<typeof made> {
  return buildImages({
    packageRoot: at('package'),
    version: VERSION,
    outDir: at(name),
    node: process.execPath,
    debs: existsSync(at('debs')) ? at('debs') : undefined,
    modules: at('modules'),
    epochS: EPOCH_S,
  });
}

beforeAll(async () => {
  // podman names an image after its path, and takes no capitals
  dir = path.join(os.tmpdir(), `ht-images-${process.pid}`);
  mkdirSync(dir);
  // a package as npm would install it, with a file in place of each eBPF program
  cpSync(compiledSources(), at('package/dist/src'), { recursive: true });
  cpSync(path.join(ROOT, 'package.json'), at('package/package.json'));
  symlinkSync(path.join(ROOT, 'node_modules'), at('package/node_modules'));
  mkdirSync(at('package/dist/bpf'));
  writeFileSync(at('package/dist/bpf/npf.bpf.o'), 'npf');
  mkdirSync(at('modules/6.12.1'), { recursive: true });
  writeFileSync(at('modules/6.12.1/hyperturtle_guest.ko'), 'module');
  mkdirSync(at('debs'));
  execFileSync('apt-get', ['-q', 'download', 'libc6', 'libgcc-s1', 'libstdc++6', 'busybox-static'], {
    cwd: at('debs'),
    stdio: 'ignore',
  });
  if (whyNone === undefined) made = await build('one');
}, 600_000);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

it.runIf(whyNone !== undefined)('are refused with a Node.js in parts, and say which will do', async () => {
  await expect(build('one')).rejects.toThrow(/needs .*: give --node an official build of Node.js/);
  expect(existsSync(at('one'))).toBe(false);
});

describe.skipIf(whyNone !== undefined)(`the images${whyNone ? ` (skipped: ${whyNone})` : ''}`, () => {
  it('are the same bytes when they are built again', async () => {
    await build('two');
    const blobs = readdirSync(at('one/blobs/sha256')).sort();
    expect(readdirSync(at('two/blobs/sha256')).sort()).toEqual(blobs);
    expect(readFileSync(at('two/index.json'))).toEqual(readFileSync(at('one/index.json')));
    rmSync(at('two'), { recursive: true });
    await expect(build('one')).rejects.toMatchObject({ code: 'HT_EXISTS' });
  }, 300_000);

  it('are an OCI layout of three names, whose blobs are what their digests say', () => {
    const index = read<Index>(at('one/index.json'));
    expect(index.manifests.map((m) => m.annotations['org.opencontainers.image.ref.name'])).toEqual(
      made.names,
    );
    const layers = index.manifests.map((m) => read<Manifest>(blob(m.digest)).layers.map((l) => l.digest));
    expect(layers[0]).toEqual(layers[1]);
    const [base, own, modules] = made.contents.layers.map((l) => l.digest);
    expect(layers[0]).toEqual([base, own]);
    expect(layers[2]).toEqual([base, modules]);
    for (const name of readdirSync(at('one/blobs/sha256'))) {
      const [sum] = execFileSync('sha256sum', [at('one/blobs/sha256', name)], { encoding: 'utf8' }).split(
        ' ',
      );
      expect(sum).toBe(name);
    }
  });

  it("hold what they list, all of root's and of one date, and nothing that gives rights", () => {
    const lines = made.contents.layers.flatMap((l) =>
      execFileSync('tar', ['--utc', '--numeric-owner', '-tvzf', blob(l.digest)], { encoding: 'utf8' })
        .trim()
        .split('\n'),
    );
    for (const line of lines) expect(line).toMatch(/^[-dl]([r-][w-][x-]){3} 0\/0 +\d+ 2023-11-14 22:13 /);
    const files = lines.map((l) => l.slice(l.indexOf('./')).replace(/ -> .*/, ''));
    const app = `./opt/hyperturtle/${VERSION}`;
    for (const file of [
      `${app}/bin/node`,
      `${app}/dist/src/cli/cni-main.cjs`,
      './usr/lib/hyperturtle/npf.bpf.o',
      './bin/sh',
    ])
      expect(files).toContain(file);
    // compilers, sources and keys are in none, kernel modules in that of modules
    expect(files).toContain('./modules/6.12.1/hyperturtle_guest.ko');
    expect(files.filter((f) => /\.(pem|key|ts)$|\/(gcc|clang|npm)$|^\.\/root\/./.test(f))).toEqual([]);
    const { debian, node, npm } = made.contents;
    expect(debian.map((d) => d.name).sort()).toEqual(['busybox-static', 'libc6', 'libgcc-s1', 'libstdc++6']);
    expect(node.version).toBe(process.versions.node);
    expect(npm.map((n) => n.name)).toEqual(expect.arrayContaining(['koffi', '@grpc/grpc-js']));
    const inside = execFileSync('tar', [
      '-xOzf',
      blob(made.contents.layers[1]?.digest ?? ''),
      './usr/share/hyperturtle/contents.json',
    ]);
    expect(JSON.parse(inside.toString())).toEqual({ debian, node, npm });
  });
});

describe.skipIf(why !== undefined)(`the images under podman${why ? ` (skipped: ${why})` : ''}`, () => {
  let podman: Podman;
  const ids = new Map<string, string>();
  beforeAll(() => {
    if (typeof tree === 'string') return;
    podman = new Podman(tree, '/bin/false', {});
    writeFileSync(at('policy.json'), '{"default": [{"type": "insecureAcceptAnything"}]}');
    for (const name of made.names.slice(0, 2)) {
      const pulled = podman.podman(
        'pull',
        '-q',
        '--signature-policy',
        at('policy.json'),
        `oci:${at('one')}:${name}`,
      );
      expect(pulled.status, pulled.text).toBe(0);
      ids.set(name, pulled.text.trim().split('\n').at(-1) ?? '');
    }
  }, 300_000);
  afterAll(() => {
    podman.podman('rmi', '-fa');
    podman.close();
  });
  const image = (name: string): string => ids.get(`${name}:${VERSION}`) ?? '';
  const run = (name: string, ...args: string[]): { status: number | null; text: string } =>
    podman.podman(
      'run',
      '--rm',
      '--network',
      'none',
      '--read-only',
      ...args.slice(0, -1),
      image(name),
      ...(args.at(-1) ?? '').split(' ').filter(Boolean),
    );

  it('the agent checks a configuration that a manifest gives it', () => {
    mkdirSync(at('etc'));
    const config = objectsOf(chartValues(VERSION, {}), 'ht').find((o) =>
      JSON.stringify(o).includes('guest.yaml'),
    );
    writeFileSync(
      at('etc/guest.yaml'),
      (config as { data: Record<string, string> }).data['guest.yaml'] ?? '',
    );
    const checked = run('hyperturtle-agent', '-v', `${at('etc')}:/etc/hyperturtle:ro`, 'guest agent --check');
    expect(checked.text).toMatch(/guest.yaml: OK, 1 objects/);
    expect(checked.status).toBe(0);
    expect(run('hyperturtle-agent', '--version').text).toContain(VERSION);
  }, 240_000);

  it('the device plugin registers with kubelet and gives a NIC, from inside', async () => {
    const agent = new NicAgent(at('root'), 2);
    mkdirSync(at('run'));
    await agent.listen(at('run/agent.sock'));
    const kubelet = new FakeKubelet(at('kubelet'));
    try {
      await kubelet.start();
      const mounts = [
        `${at('kubelet')}:/var/lib/kubelet/device-plugins`,
        `${at('run')}:/run/hyperturtle`,
        `${at('root')}:${at('root')}`,
      ];
      const started = podman.podman(
        ...['run', '-d', '--network', 'none', '--read-only', '-e', `HYPERTURTLE_SYSFS_ROOT=${at('root')}`],
        ...mounts.flatMap((m) => ['-v', m]),
        image('hyperturtle-device-plugin'),
      );
      expect(started.status, started.text).toBe(0);
      await kubelet.untilHealthy(2, 60_000);
      const given = await kubelet.admit('pod', 1);
      expect(given.envs['HYPERTURTLE_NICS']).toBe('k8s-nic-0');
    } finally {
      podman.podman('rm', '-fa', '-t', '0');
      kubelet.stop();
      await agent.close();
    }
  }, 240_000);

  it('the first container puts the package and the CNI plugin on the node, which then run there', () => {
    const set = objectsOf(chartValues(VERSION, {}), 'ht').find((o) =>
      JSON.stringify(o).includes('"DaemonSet"'),
    ) as {
      spec: { template: { spec: { initContainers: { name: string; command: string[] }[] } } };
    };
    const files = set.spec.template.spec.initContainers.find((c) => c.name === 'node-files');
    for (const d of ['node-package', 'node-cni']) mkdirSync(at(d));
    const put = (): { status: number | null; text: string } =>
      podman.podman(
        ...['run', '--rm', '--network', 'none', '--read-only', '--entrypoint', 'sh'],
        ...['-v', `${at('node-package')}:/node/hyperturtle`, '-v', `${at('node-cni')}:/node/cni`],
        image('hyperturtle-agent'),
        ...(files?.command.slice(1) ?? []),
      );
    const first = put();
    expect(first.status, first.text).toBe(0);
    // again, over what is there
    expect(put().status).toBe(0);
    const app = at('node-package', VERSION);
    const shim = readFileSync(at('node-cni/hyperturtle-cni'), 'utf8');
    expect(shim).toContain(
      `exec /opt/hyperturtle/${VERSION}/bin/node /opt/hyperturtle/${VERSION}/dist/src/cli/cni-main.cjs`,
    );
    const answer = execFileSync(path.join(app, 'bin/node'), [path.join(app, 'dist/src/cli/cni-main.cjs')], {
      env: { CNI_COMMAND: 'VERSION' },
      input: '{"cniVersion": "1.0.0"}',
      encoding: 'utf8',
    });
    expect(JSON.parse(answer)).toMatchObject({ supportedVersions: ['0.4.0', '1.0.0', '1.1.0'] });
    expect(readdirSync(at('node-package')).sort()).toEqual([VERSION, 'bin']);
  }, 240_000);
});
