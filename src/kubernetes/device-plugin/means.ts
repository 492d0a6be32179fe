/** NICs by the agent of this machine, a connection for each piece of work: the agent may be another one every time. */
import { ChildAbort } from '../../core/lifecycle.ts';
import { nicHost } from '../../client/nics.ts';
import { withAgent } from '../../client/session.ts';
import type { AgentClient } from '../../client/session.ts';
import { addNic, look } from '../../guest/nic/nic.ts';
import type { NicMeans } from './pool.ts';

const LIST_S = 10;
/** Plugging one and waiting for its device takes a second; a host that is busy, longer. */
const PREPARE_S = 90;

export function nicMeans(spec: { socket: string; network: string | undefined }): NicMeans {
  const { socket, network } = spec;
  const agent = async <T>(
    timeoutS: number,
    signal: AbortSignal,
    use: (c: AgentClient) => Promise<T>,
  ): Promise<T> => {
    signal.throwIfAborted();
    using child = new ChildAbort(signal);
    return await withAgent({ socket, timeoutS }, (c) =>
      use({ ...c, signal: AbortSignal.any([c.signal, child.signal]) }),
    );
  };
  return {
    list: (signal) => agent(LIST_S, signal, (c) => nicHost(c).list()),
    prepare: (id, signal) =>
      agent(PREPARE_S, signal, async (c) => {
        const params = network === undefined ? { id } : { id, network };
        const { nic } = await addNic(params, 'vfio-pci', { host: nicHost(c), signal: c.signal });
        return nic;
      }),
    look: (nic) => look(nic),
  };
}
