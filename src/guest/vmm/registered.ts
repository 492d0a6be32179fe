/** Whether the agent of this machine has registered a nested guest with the module. */
import { AGENT_SOCKET } from '../../core/default-paths.ts';
import { connectSocket } from '../../core/sockets.ts';
import { waitFor } from '../../core/wait.ts';
import { RpcPeer } from '../../wire/peer.ts';
import { LOCAL_METHODS } from '../agent/schema.ts';

/** Waits until the agent of this machine knows of the VM of process `pid`. Throws HT_TIMEOUT, HT_NOT_FOUND without an agent. */
export async function agentHasRegistered(
  pid: number,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  socket: string = AGENT_SOCKET,
): Promise<void> {
  const stream = await connectSocket(socket, signal ?? AbortSignal.timeout(timeoutMs));
  const peer = new RpcPeer(stream, { calls: LOCAL_METHODS, session: 'connection' });
  try {
    await waitFor(
      `registration of process ${pid} by the agent`,
      async () => {
        const { l2s } = await peer.request('agent.status', {}, { timeoutMs, signal });
        return l2s.some((l2) => l2.pid === pid) ? true : undefined;
      },
      { timeoutMs, intervalMs: 50, signal },
    );
  } finally {
    peer.close();
  }
}
