/** What the daemon asks of a VM's QEMU: whether it has the arena, and to plug the arena or the agent's port. */
import { isHyperturtleError } from '../../core/errors.ts';
import { PORT_NAME } from '../../wire/schema.ts';
import type { QmpClient } from '../../qmp/client.ts';
import { BACKEND_ID } from '../arena-plug.ts';

type Executor = Pick<QmpClient, 'execute'>;

export interface FoundBackend {
  /** QEMU's id of the memory backend. */
  id: string;
  /** Plugged by a daemon, not given on the command line. */
  hotPlugged: boolean;
}

/** The memory backend whose file is this VM's arena, by the stable link or by a device's own name. */
export async function findArena(qmp: Executor, link: string): Promise<FoundBackend | undefined> {
  for (const item of list(await qmp.execute('qom-list', { path: '/objects' }))) {
    const { name, type } = item;
    if (typeof name !== 'string' || type !== 'child<memory-backend-file>') continue;
    const file = await qmp.execute('qom-get', { path: `/objects/${name}`, property: 'mem-path' });
    if (file === link || (typeof file === 'string' && file.startsWith('/dev/hyperturtle-arena')))
      return { id: name, hotPlugged: name === BACKEND_ID };
  }
  return undefined;
}

const CHARDEV_ID = 'hyperturtle-agent';

/** Plugs the agent's port, with a socket of QEMU's behind it; what is there already stays. Throws HT_QMP. */
export async function plugPort(
  qmp: Executor,
  spec: { socketPath: string; bus?: string | undefined },
): Promise<void> {
  const addr = { type: 'unix', data: { path: spec.socketPath } };
  await unlessThere(
    qmp.execute('chardev-add', {
      id: CHARDEV_ID,
      backend: { type: 'socket', data: { addr, server: true, wait: false } },
    }),
  );
  await unlessThere(
    qmp.execute('device_add', {
      driver: 'virtserialport',
      id: `${CHARDEV_ID}-port`,
      name: PORT_NAME,
      chardev: CHARDEV_ID,
      ...(spec.bus === undefined ? {} : { bus: spec.bus }),
    }),
  );
}

async function unlessThere(answer: Promise<unknown>): Promise<void> {
  try {
    await answer;
  } catch (e) {
    if (!isHyperturtleError(e, 'HT_QMP') || !/duplicate|already exists/i.test(e.message)) throw e;
  }
}

function list(answer: unknown): { name?: unknown; type?: unknown }[] {
  return Array.isArray(answer) ? answer.filter((x): x is object => typeof x === 'object' && x !== null) : [];
}
