/** The daemon's own unix sockets. */
import type net from 'node:net';
import { holdSocket, listenAt as listen } from '../../core/sockets.ts';
import type { Held, ListenSpec } from '../../core/sockets.ts';

/** Only for root. Throws HT_BUSY when somebody listens there: another daemon; and what else listenAt of src/core throws. */
export async function listenAt(server: net.Server, socketPath: string): Promise<void> {
  await listen(server, socketPath, ownAt(socketPath));
}

/** Throws likewise. */
export const holdAt = (socketPath: string): Promise<Held> => holdSocket(socketPath, ownAt(socketPath));

const ownAt = (socketPath: string): ListenSpec => ({
  signal: AbortSignal.timeout(10_000),
  taken: `somebody listens at ${socketPath} already: is another daemon running? End it first`,
});
