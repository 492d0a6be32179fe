/** A connection to the agent of this machine, for one piece of work. */
import type { LOCAL_METHODS } from '../guest/agent/schema.ts';
import type { RpcPeer } from '../wire/peer.ts';
import type { NotificationArguments } from '../wire/schema.ts';

export interface AgentClient {
  readonly peer: RpcPeer<typeof LOCAL_METHODS>;
  /** Aborted by SIGINT and SIGTERM, and when the agent ends the connection: the reason says which. */
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

export type OnNotify = (...notification: NotificationArguments) => void;

/** Connects, calls `use`, and closes whatever it throws. Throws HT_UNAVAILABLE when no agent runs. */
export async function withAgent<T>(
  options: { socket: string; timeoutS: number },
  use: (client: AgentClient) => Promise<T>,
  onNotify?: OnNotify,
): Promise<T> {
  const [{ connectSocket, whyNot }, { LOCAL_METHODS }, { RpcPeer }, { abortOnSignals }, errors] =
    await Promise.all([
      import('../core/sockets.ts'),
      import('../guest/agent/schema.ts'),
      import('../wire/peer.ts'),
      import('../core/lifecycle.ts'),
      import('../core/errors.ts'),
    ]);
  const { HyperturtleError, isHyperturtleError } = errors;
  const signals = abortOnSignals();
  const ended = new AbortController();
  try {
    const stream = await connectSocket(options.socket, signals.signal).catch((e: unknown) => {
      if (isHyperturtleError(e, 'HT_NOT_FOUND') || isHyperturtleError(e, 'HT_CHANNEL')) {
        throw new HyperturtleError(
          'HT_UNAVAILABLE',
          `no agent at ${options.socket} (${whyNot(options.socket, e)}): start it (systemctl start hyperturtle-agent, or hyperturtle guest agent) as root`,
          { cause: e },
        );
      }
      throw e;
    });
    const peer = new RpcPeer(stream, {
      calls: LOCAL_METHODS,
      session: 'connection',
      ...(onNotify ? { onNotify } : {}),
      onClose: (reason) =>
        ended.abort(
          reason ??
            new HyperturtleError('HT_UNAVAILABLE', 'the agent has closed the connection: is it restarting?'),
        ),
    });
    try {
      return await use({
        peer,
        signal: AbortSignal.any([signals.signal, ended.signal]),
        timeoutMs: options.timeoutS * 1000,
      });
    } finally {
      peer.close();
    }
  } finally {
    signals.dispose();
  }
}
