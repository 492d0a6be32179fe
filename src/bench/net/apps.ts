/**
 * Services in the L2 of `bench net`, asked from L0 by the load generators that go with them. Programs and libraries come out
 * of the lab's images: L0 mounts those, and L2, which has no disk, gets what each service needs over its first NIC.
 */
import { HyperturtleError } from '../../core/errors.ts';
import type { L2Shell } from '../../lab/l2-shell.ts';
import { IN_GUEST } from '../../lab/artifacts.ts';
import type { Level } from '../../lab/levels.ts';
import { runScript } from '../../lab/levels.ts';
import { shellWord } from '../../lab/machine.ts';
import type { NetWay } from './lab.ts';
import type { NetApp } from './schema.ts';

export const CLIENTS = 'load-generators';
const ROOTS = '/run/apps';
/** Where L0 serves one service's files, once. */
const FILES_PORT = 7001;
const START_MS = 120_000;
const LOAD_MS = 600_000;

interface App {
  /** Its image. */
  image: string;
  port: number;
  program: string;
  args: readonly string[];
  /** Files of the image that are needed besides the program and its libraries. */
  files: readonly string[];
  /** To be made in L2. */
  folders?: readonly string[];
  /** The generator's, from L0. */
  load: (peer: string, requests: number, clients: number) => string[];
  /** Requests a second, out of what it prints. */
  rate: RegExp;
}

export const APPS: Readonly<Record<NetApp, App>> = {
  memcached: {
    image: 'memcached',
    port: 11_211,
    program: '/usr/bin/memcached',
    args: ['-u', 'root', '-m', '16', '-t', '1'],
    files: ['/etc/passwd'],
    // one set for nine gets, values of 100 bytes
    load: (peer, requests, clients) => [
      ...['/usr/bin/memcaslap', '-s', `${peer}:11211`, '-T', '1', '-c', String(clients)],
      ...['-x', String(requests), '-X', '100', '-w', '1k'],
    ],
    rate: /TPS: (\d+)/,
  },
  redis: {
    image: 'redis',
    port: 6379,
    program: '/usr/bin/redis-server',
    args: ['--port', '6379', '--bind', '*', '--protected-mode', 'no', '--save', ''],
    files: [],
    load: (peer, requests, clients) => [
      ...['/usr/bin/redis-benchmark', '-h', peer, '-t', 'get', '-c', String(clients)],
      ...['-n', String(requests), '--csv'],
    ],
    rate: /^"GET","([\d.]+)"/m,
  },
  nginx: {
    image: 'nginx',
    port: 80,
    program: '/usr/sbin/nginx',
    args: ['-c', '/etc/nginx/hyperturtle.conf'],
    files: ['/etc/passwd', '/etc/group', '/etc/nginx/hyperturtle.conf', '/usr/share/nginx/html/index.html'],
    folders: ['/var/log/nginx', '/var/lib/nginx'],
    load: (peer, requests, clients) => [
      ...['/usr/bin/ab', '-q', '-k', '-n', String(requests), '-c', String(clients), `http://${peer}/`],
    ],
    rate: /^Requests per second: +([\d.]+)/m,
  },
};

/** Mounts in L0 what is asked and what asks. The lab must have the images. */
export async function setUpAppsL0(l0: Level, apps: readonly NetApp[], signal?: AbortSignal): Promise<void> {
  const images = [...new Set([CLIENTS, ...apps.map((a) => APPS[a].image)])];
  await runScript(
    l0,
    [
      `set -e; mkdir -p ${IN_GUEST.images} && mount -t erofs -o ro ${IN_GUEST.imagesDisk} ${IN_GUEST.images}`,
      ...images.map(
        (i) =>
          `mkdir -p ${ROOTS}/${i} && mount -t erofs -o ro,loop ${IN_GUEST.images}/${i}.erofs ${ROOTS}/${i}`,
      ),
      // generators want random numbers, and a home to write to
      `mount -t devtmpfs dev ${ROOTS}/${CLIENTS}/dev; mount -t proc proc ${ROOTS}/${CLIENTS}/proc; mount -t tmpfs home ${ROOTS}/${CLIENTS}/root`,
    ].join('\n'),
    { signal, timeoutMs: START_MS },
  );
}

/** Starts them all in L2, which fetches their files from L0 by `way`. */
export async function startApps(
  l0: Level,
  shell: L2Shell,
  o: { apps: readonly NetApp[]; way: NetWay; signal?: AbortSignal | undefined },
): Promise<void> {
  const { way, signal } = o;
  for (const name of o.apps) {
    const app = APPS[name];
    const root = `${ROOTS}/${app.image}`;
    const linker = '/lib64/ld-linux-x86-64.so.2';
    const libraries = `$(chroot ${root} ${linker} --list ${app.program} | grep -o '/[^ ]*')`;
    const job = await l0.spawn(
      [
        ...['sh', '-c'],
        `set -e; cd ${root}; for f in ${[app.program, linker, ...app.files].join(' ')} ${libraries}; do echo .$f; done | sort -u >/run/files; exec nc -l -p ${FILES_PORT} -e tar -c -h -f - $(cat /run/files)`,
      ],
      { signal },
    );
    try {
      const here = `/apps/${name}`;
      const made = [...['/dev', '/proc', '/run', '/tmp'], ...(app.folders ?? [])].map((f) => here + f);
      const command = [app.program, ...app.args].map(shellWord).join(' ');
      await shell.runOk(
        `${[
          `busybox mkdir -p ${made.join(' ')}`,
          // until L0 has begun to serve it
          `n=0; until busybox nc ${way.peer} ${FILES_PORT} </dev/null >/tmp/files && [ -s /tmp/files ]; do n=$((n+1)); [ $n -gt 100 ] && exit 1; usleep 200000; done`,
          `busybox tar -x -C ${here} -f /tmp/files && busybox rm /tmp/files`,
          `mount -t devtmpfs dev ${here}/dev; mount -t proc proc ${here}/proc`,
        ].join('; ')}; busybox chroot ${here} ${command} </dev/null >/tmp/${name}.log 2>&1 &`,
        { timeoutMs: START_MS, signal },
      );
      await runScript(
        l0,
        `n=0; until nc -w 2 ${way.here} ${app.port} </dev/null; do n=$((n+1)); [ $n -gt 60 ] && exit 1; sleep 0.5; done`,
        { timeoutMs: START_MS, signal },
      ).catch(async (e: unknown) => {
        const { lines } = await shell.run(`cat /tmp/${name}.log`, { timeoutMs: 30_000 });
        throw new HyperturtleError('HT_BOOT_FAILED', `${name} in L2 does not listen: ${lines.join(' | ')}`, {
          cause: e,
        });
      });
    } finally {
      await job.kill('KILL');
      await job.wait({ timeoutMs: 30_000 });
    }
  }
}

/** One run of a generator: requests a second, as it says. `l2`: the address of L2 on the way to be taken. */
export async function loadApp(
  l0: Level,
  app: NetApp,
  o: { l2: string; requests: number; clients: number; signal?: AbortSignal | undefined },
): Promise<number> {
  const { load, rate } = APPS[app];
  const argv = ['chroot', `${ROOTS}/${CLIENTS}`, ...load(o.l2, o.requests, o.clients)];
  const r = await l0.exec(argv, { timeoutMs: LOAD_MS, signal: o.signal });
  const text = r.stdout.toString('utf8') + r.stderr.toString('utf8');
  const found = Number(rate.exec(text)?.[1] ?? NaN);
  if (r.status !== 0 || !(found > 0))
    throw new HyperturtleError(
      'HT_COMMAND_FAILED',
      `${argv.join(' ')}: status ${r.status}: ${text.slice(-800)}`,
    );
  return found;
}
