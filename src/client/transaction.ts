/** Loading and linking as one step: when a part of it fails, what it loaded and linked goes again. */
import type { LinkInfo, Params, Result } from '../wire/schema.ts';
import type { AgentClient } from './session.ts';

/** For each undoing: also when the caller was interrupted or its deadline is over. */
export const UNDO_MS = 10_000;

export interface LoadedAndLinked {
  object: Result<'load'>['object'];
  /** It was loaded already. */
  existed: boolean;
  links: LinkInfo[];
}

/**
 * Loads, does what is wanted before anything runs, and links; `hooks` may depend on what was loaded. Throws what the host
 * answered to the part that failed; links and an object that were there before stay.
 */
export async function loadAndLink(
  { peer, signal, timeoutMs }: AgentClient,
  params: Params<'load'>,
  steps: {
    /** In place of `load`, such as to swap an object. */
    load?: () => Promise<Result<'load'>>;
    before?: () => Promise<void>;
    links: (object: Result<'load'>['object']) => readonly Omit<Params<'link'>, 'object'>[];
  },
): Promise<LoadedAndLinked> {
  const to = { signal, timeoutMs };
  const loaded = await (steps.load?.() ?? peer.request('load', params, to));
  const { object, existed } = loaded;
  const made: Result<'link'>[] = [];
  try {
    await steps.before?.();
    for (const link of steps.links(object))
      made.push(await peer.request('link', { object: params.name, ...link }, to));
    // with what else a replacement tells
    return { ...loaded, links: made.map((m) => m.link) };
  } catch (e) {
    // the first failure is the one to tell
    const undo = { timeoutMs: UNDO_MS };
    if (!existed)
      await peer.request('unload', { name: params.name, force: true }, undo).catch(() => undefined);
    else
      for (const m of made.filter((one) => !one.existed))
        await peer.request('unlink', { id: m.link.id }, undo).catch(() => undefined);
    throw e;
  }
}
