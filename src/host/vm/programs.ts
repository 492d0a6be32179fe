/** Which program of an object a link runs. */
import { HyperturtleError } from '../../core/errors.ts';
import type { LinkInfo } from '../../wire/schema.ts';
import type { LoadedObject, LoadedProgram } from '../loader/loader.ts';

/** The program of that name, or the only one for the hook. Throws HT_NOT_FOUND, HT_USAGE. */
export function programOf(object: LoadedObject, hook: string, name: string | undefined): LoadedProgram {
  const fitting = object.programs.filter((p) => p.hook === hook);
  const have = object.programs.map((p) => `${p.name} (${p.hook})`).join(', ') || 'none';
  if (name !== undefined) {
    const found = fitting.find((p) => p.name === name);
    if (found) return found;
    throw new HyperturtleError(
      'HT_NOT_FOUND',
      `object '${object.name}' has no program '${name}' for hook ${hook}; it has: ${have}`,
    );
  }
  const [only, other] = fitting;
  if (only && !other) return only;
  throw new HyperturtleError(
    only ? 'HT_USAGE' : 'HT_NOT_FOUND',
    only
      ? `object '${object.name}' has several programs for hook ${hook}: say which of ${fitting.map((p) => p.name).join(', ')}`
      : `object '${object.name}' has no program for hook ${hook}; it has: ${have}`,
  );
}

/**
 * Program of a new version that takes a link over: the one of the same name, or the only one for the hook. Throws
 * likewise.
 */
export function successor(object: LoadedObject, { hook, program }: LinkInfo): LoadedProgram {
  const named = object.programs.some((p) => p.hook === hook && p.name === program);
  return programOf(object, hook, named ? program : undefined);
}
