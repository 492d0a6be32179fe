/** The agent's configuration file, /etc/hyperturtle/guest.yaml. Every setting may be left out, and so may the file. */
import path from 'node:path';
import { z } from 'zod';
import { LOG_LEVELS } from '../../core/log-levels.ts';
import { AGENT_PORT, AGENT_SOCKET, PLACES } from '../../core/default-paths.ts';
import { isHyperturtleError, messageOf } from '../../core/errors.ts';
import { readInput } from '../../core/files.ts';
import { KEY_BYTES_MAX } from '../../core/signature.ts';
import { SOCKET_PATH_LIMIT, isSocketPath } from '../../core/sockets.ts';
import { readYaml } from '../../core/yaml.ts';
import type { Mistake } from '../../core/yaml.ts';
import { ObjectPolicy } from '../../net/policy.ts';
import { Constants, Count, Name, LinkOptions, LinkOrder } from '../../wire/schema.ts';
import { recordOf } from '../../core/record.ts';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

export const DEFAULT_CONFIG_FILE = PLACES.guestConfig.path;
const DEFAULT_STATE_DIR = PLACES.state.path;

const AbsolutePath = lazy(() =>
  z
    .string()
    .max(4096)
    .regex(/^\/[^\0]*$/, 'an absolute path expected'),
);
const SocketPath = lazy(() => AbsolutePath().refine(isSocketPath, SOCKET_PATH_LIMIT));
const groupMax = (min: number) => z.int().min(min).max(64);

const ObjectConfig = lazy(() =>
  z.strictObject({
    /** Compiled object (.bpf.o). */
    file: AbsolutePath(),
    /** Detached signature; left out: FILE.sig when there is one. */
    signature: AbsolutePath().optional(),
    /** Values of its read-only variables: base64, by name. */
    constants: Constants().optional(),
    /** Policy of a firewall or rate limiter: in force before it is linked. */
    policy: ObjectPolicy().optional(),
  }),
);

const LinkConfig = lazy(() =>
  z.strictObject({
    object: Name(),
    /** Left out: the one that fits the hook. */
    program: Name().optional(),
    hook: Name(),
    /** Id of a NIC, for hooks of NICs. */
    target: z.string().max(4096).optional(),
    order: LinkOrder().optional(),
    /** What is asked of the hook: exits, msrs, hz, ... */
    options: LinkOptions().optional(),
  }),
);
type LinkConfig = Output<typeof LinkConfig>;

const ModuleConfig = lazy(() =>
  z.strictObject({
    /** Whether programs may answer faults at all. */
    enabled: z.boolean().optional(),
    /** Most pages that one fault may map. */
    groupMax: groupMax(1).optional(),
    /** Frames: refill below `low`, up to `high`. */
    pool: z
      .strictObject({ low: Count(), high: Count() })
      .refine((p) => p.low <= p.high, 'low must not be above high')
      .optional(),
  }),
);
type ModuleConfig = Output<typeof ModuleConfig>;

const Settings = lazy(() =>
  z.strictObject({
    /** Virtio-serial port to the host, or a unix socket. */
    port: AbsolutePath().default(AGENT_PORT),
    /** Seconds between pings to the host, which find a connection that is dead without looking closed. */
    pingEveryS: z.int().min(1).max(3600).default(10),
    /** For this machine's command line. */
    socket: SocketPath().default(AGENT_SOCKET),
    /** Where what commands changed is kept. */
    state: AbsolutePath().default(DEFAULT_STATE_DIR),
    metrics: z
      .union(
        [z.strictObject({ socket: SocketPath() }), z.strictObject({ port: z.int().min(1).max(65535) })],
        {
          error: 'either socket: PATH or port: NUMBER (on the loopback address) expected',
        },
      )
      .optional(),
    log: z.strictObject({ level: z.enum(LOG_LEVELS).default('info') }).prefault({}),
    objects: recordOf(Name(), ObjectConfig()).prefault({}),
    links: z.array(LinkConfig()).prefault([]),
    module: ModuleConfig().prefault({}),
    /** Nested guests whose RAM is on turtlefs. */
    l2: z
      .strictObject({
        register: z.boolean().default(true),
        /** 0: the module's. */
        groupMax: groupMax(0).default(0),
        /** Most frames that programs take for one; 0: as many as its RAM has pages. */
        framesLimit: Count().default(0),
      })
      .prefault({}),
    turtlefs: z
      .strictObject({
        dir: AbsolutePath().default(PLACES.turtlefs.path),
        /** Mount it when it is not. */
        mount: z.boolean().default(true),
      })
      .prefault({}),
  }),
);
/** The names of settings. */
export const agentSettings = (): string[] => Object.keys(Settings().shape);

/** Sockets and the lock are as long as a name may be, and each another. */
export const AgentConfig = lazy(() =>
  Settings().superRefine((config, context) => {
    const fail = (path: string[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    const lock = lockOf(config.state);
    if (!isSocketPath(lock)) fail(['state'], `its lock ${lock} is too long: ${SOCKET_PATH_LIMIT}`);
    const taken = new Map([[config.socket, 'socket']]);
    const claim = (path: string[], socket: string): void => {
      const by = taken.get(socket);
      if (by !== undefined) fail(path, `${socket} is ${by} already`);
      taken.set(socket, path.join('.'));
    };
    claim(['port'], config.port);
    claim(['state'], lock);
    if (config.metrics && 'socket' in config.metrics) claim(['metrics', 'socket'], config.metrics.socket);
  }),
);
export type AgentConfig = Output<typeof AgentConfig>;

/** Held by the agent that keeps its state there. */
export const lockOf = (state: string): string => path.join(state, 'agent.lock');

/** For `guest agent --check`: throws HT_NOT_FOUND, HT_CONFIG also with objects and signatures that cannot be read. */
export function checkAgentConfig(file: string): AgentConfig {
  return readYaml(path.resolve(file), AgentConfig(), objectMistakes);
}

function objectMistakes({ objects }: AgentConfig): Mistake[] {
  return Object.entries(objects).flatMap(([name, o]) => {
    const mistake = (key: 'file' | 'signature', read: () => unknown): Mistake[] => {
      try {
        read();
        return [];
      } catch (e) {
        return [{ path: ['objects', name, key], message: messageOf(e) }];
      }
    };
    return [
      ...mistake('file', () => readInput(o.file, 'a compiled object (.bpf.o) expected')),
      ...mistake(
        'signature',
        () => o.signature && readInput(o.signature, 'a signature expected', KEY_BYTES_MAX),
      ),
    ];
  });
}

/** Throws HT_CONFIG with all problems. Without the file all is as left out, unless it was asked for by name. */
export function readAgentConfig(file: string, required: boolean): AgentConfig {
  try {
    return readYaml(path.resolve(file), AgentConfig());
  } catch (e) {
    if (!required && isHyperturtleError(e, 'HT_NOT_FOUND')) return AgentConfig().parse({});
    throw e;
  }
}
