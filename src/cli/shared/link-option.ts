/**
 * `--option NAME=VALUE`: what a link asks of its hook, as the wire protocol has it.
 */
import { Option } from 'commander';
import { HyperturtleError } from '../../core/errors.ts';
import { fitsHook, OPTION_HOOKS } from '../../host/link-args.ts';
import type { LinkOptions } from '../../wire/link-options.ts';

export function linkOption(): Option {
  return new Option(
    '--option <name=value>',
    'what is asked of the hook: exits=cpuid,rdmsr msrs=0x8b after user (exit), hz=99 depth=64 (sample), numbers=0x48540001 from=both user (call); may be repeated',
  ).argParser(parseLinkOption);
}

/** Values are numbers, names or lists of them; a name alone is true. Throws HT_USAGE. */
export function parseLinkOption(text: string, before: LinkOptions | undefined): LinkOptions {
  const at = text.indexOf('=');
  const name = at < 0 ? text : text.slice(0, at);
  const all = { ...before, [name]: at < 0 ? true : valueOf(name, text.slice(at + 1)) };
  // exits, hz and numbers are the ones that must be there: they may come later
  if (OPTION_HOOKS.some((hook) => fitsHook(hook, all))) return all as LinkOptions;
  throw new HyperturtleError(
    'HT_USAGE',
    `--option ${text}: options of a hook are expected: exits, msrs, after, user (exit); hz, depth, clock (sample); numbers, from, user (call)`,
  );
}

const LISTS: readonly string[] = ['exits', 'msrs', 'numbers'];

function valueOf(name: string, text: string): unknown {
  const one = (t: string): unknown => (/^(0x[0-9a-f]+|\d+)$/i.test(t) ? Number(t) : t);
  return LISTS.includes(name) ? text.split(',').map(one) : one(text);
}
