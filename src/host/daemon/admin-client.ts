/** The operator's side of the admin socket. */
import type net from 'node:net';
import { HyperturtleError, isHyperturtleError } from '../../core/errors.ts';
import { connectSocket, whyNot } from '../../core/sockets.ts';
import { RpcPeer } from '../../wire/peer.ts';
import { ADMIN_METHODS } from './admin-schema.ts';

/** To be closed by the caller. Throws HT_UNAVAILABLE when no daemon listens there. */
export async function connectAdmin(
  socketPath: string,
  signal: AbortSignal,
): Promise<RpcPeer<typeof ADMIN_METHODS>> {
  let socket: net.Socket;
  try {
    socket = await connectSocket(socketPath, signal);
  } catch (e) {
    signal.throwIfAborted();
    if (isHyperturtleError(e, 'HT_USAGE')) throw e;
    throw new HyperturtleError(
      'HT_UNAVAILABLE',
      `no daemon at ${socketPath} (${e instanceof Error ? whyNot(socketPath, e) : String(e)}): start it (systemctl start hyperturtled, or hyperturtle host daemon) as root`,
      { cause: e },
    );
  }
  return new RpcPeer(socket, { calls: ADMIN_METHODS, session: 'connection' });
}
