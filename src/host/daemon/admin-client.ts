/** The operator's side of the admin socket. */
import type net from 'node:net';
import { HyperturtleError, messageOf } from '../../core/errors.ts';
import { RpcPeer } from '../../wire/peer.ts';
import { ADMIN_METHODS } from './admin-schema.ts';
import { connectTo } from './sockets.ts';

/** To be closed by the caller. Throws HT_UNAVAILABLE when no daemon listens there. */
export async function connectAdmin(
  socketPath: string,
  signal: AbortSignal,
): Promise<RpcPeer<typeof ADMIN_METHODS>> {
  let socket: net.Socket;
  try {
    socket = await connectTo(socketPath, signal);
  } catch (e) {
    signal.throwIfAborted();
    throw new HyperturtleError(
      'HT_UNAVAILABLE',
      `no daemon at ${socketPath} (${messageOf(e)}): start it (systemctl start hyperturtled, or hyperturtle host daemon) as root`,
      { cause: e },
    );
  }
  return new RpcPeer(socket, { calls: ADMIN_METHODS, session: 'connection' });
}
