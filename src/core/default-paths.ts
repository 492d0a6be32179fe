/** Where the services listen when no configuration says otherwise. */

/** The agent's, for commands of L1. */
export const AGENT_SOCKET = '/run/hyperturtle/agent.sock';
/** The daemon's, for the operator of L0. */
export const ADMIN_SOCKET = '/run/hyperturtle/host.sock';
/** In an L1: the channel to its host. */
export const AGENT_PORT = '/dev/virtio-ports/org.hyperturtle.v1';
