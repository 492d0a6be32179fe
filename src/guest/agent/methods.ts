/** What the agent's local socket answers: most of it by asking the host, the rest from what the agent knows itself. */
import type { CallContext, ServedMethods } from '../../wire/handlers.ts';
import { serve, serveAll } from '../../wire/handlers.ts';
import type { Control } from './control.ts';
import { noSuch } from './control.ts';
import type { DesiredLink } from './desired.ts';
import { withoutUndefined } from './omit.ts';
import type { EventRelay, WatchRelay } from './relay.ts';
import { AGENT_METHODS, PASSED_ON } from './schema.ts';
import type { AgentResult, Problem, WantedLink } from './schema.ts';
import type { Uplink } from './uplink.ts';

export interface AgentParts {
  uplink: Uplink;
  control: Control;
  events: EventRelay;
  watches: WatchRelay;
  status(): AgentResult<'agent.status'>;
  reload(signal: AbortSignal): Promise<Problem[]>;
  release(seconds: number): Promise<void>;
}

/** After a restart of either side a command waits so long for the session instead of failing. */
const CONNECT_GRACE_MS = 3000;
/** The caller's own deadline comes first; this one ends what nobody waits for any more. */
const PASS_TIMEOUT_MS = 115_000;

export function agentMethods(parts: AgentParts): ServedMethods {
  const { uplink, control, events, watches } = parts;
  const { 'map.watch': mapWatch, 'map.unwatch': mapUnwatch, events: eventsSpec, ...others } = PASSED_ON;
  const { ping, load, replace, unload, link, unlink, ...plain } = others;
  const connected = async ({ signal }: CallContext): Promise<AbortSignal> => {
    await uplink.whenConnected(CONNECT_GRACE_MS, signal);
    return signal;
  };
  return {
    ...serveAll(plain, async (method, params, context) => {
      const signal = await connected(context);
      return uplink.call(PASSED_ON[method], method, params, { timeoutMs: PASS_TIMEOUT_MS, signal });
    }),
    ...serve({ ping }, { ping: () => ({}) }),
    ...serve(
      { load, replace, unload, link, unlink },
      {
        load: async (params, c) => control.load(params, uplink, await connected(c)),
        replace: async (params, c) => control.replace(params, uplink, await connected(c)),
        unload: async (params, c) => control.unload(params, uplink, await connected(c)),
        link: async (params, c) => control.link(params, uplink, await connected(c)),
        unlink: async (params, c) => control.unlink(params, uplink, await connected(c)),
      },
    ),
    ...serve(
      { events: eventsSpec, 'map.watch': mapWatch, 'map.unwatch': mapUnwatch },
      {
        events: ({ since, epoch }, { session }) => events.follow(session, since, epoch),
        'map.watch': async (params, c) => {
          const signal = await connected(c);
          return watches.watch(c.session, params, uplink, signal);
        },
        'map.unwatch': async (params, { session }) => {
          const done = await watches.unwatch(session, params.watch, uplink);
          if (!done) throw noSuch(`watch ${params.watch} of this connection`);
          return done;
        },
      },
    ),
    ...serve(AGENT_METHODS, {
      'agent.status': () => parts.status(),
      'agent.desired': () => desiredOf(control),
      'agent.policy': ({ object }) => control.policy(object),
      'agent.policy.set': async (params, c) => control.setPolicy(params, uplink, await connected(c)),
      'agent.unwant': async ({ target }, c) => {
        const { links, objects } = await control.unwant(target, uplink, await connected(c));
        return { links: links.map(wantedLink), objects };
      },
      'agent.forget': async (_, { signal }) => {
        await control.change(() => control.desired.forget(), signal);
        return {};
      },
      'agent.reload': async (_, { signal }) => ({ problems: await parts.reload(signal) }),
      'agent.release': async ({ seconds }) => {
        await parts.release(seconds);
        return {};
      },
    }),
  };
}

function desiredOf({ desired }: Control): AgentResult<'agent.desired'> {
  return {
    objects: desired.objects().map((o) => ({
      name: o.name,
      sha256: o.sha256,
      signedBy: o.signature?.keyId ?? null,
      ...(o.constants ? { constants: o.constants } : {}),
      ...(o.policy ? { policy: o.policy } : {}),
      origin: o.origin,
    })),
    links: desired.links().map(wantedLink),
    removed: desired.removed(),
  };
}

function wantedLink(l: DesiredLink): WantedLink {
  return {
    object: l.object,
    program: l.program ?? null,
    hook: l.hook,
    target: l.target ?? null,
    ...withoutUndefined({ order: l.order, options: l.options }),
    origin: l.origin,
  };
}
