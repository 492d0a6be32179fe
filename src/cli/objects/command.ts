/** `hyperturtle load|replace|link|unlink|unload|list|stats|limits`: programs of this L1 in its host. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { HookStats, LinkInfo, MethodName, Params, Result } from '../../wire/schema.ts';
import { l1Options, print } from '../shared/agent-options.ts';
import { columns } from '../shared/columns.ts';
import { withAgent } from '../../client/session.ts';
import type { L1Options } from '../shared/agent-options.ts';
import type { AgentClient } from '../../client/session.ts';
import { bytesText, objectNameOf } from '../../client/bytes.ts';
import type { LinkOptions as HookOptions } from '../../wire/link-options.ts';
import { linkOption } from '../shared/link-option.ts';
import { loadAndLink } from '../../client/transaction.ts';
import { figuresOf, reasonsToL1, shareOf } from '../../wire/figures.ts';
import type { Figures } from '../../wire/figures.ts';
import { integer } from '../shared/values.ts';
import { own } from '../../core/own.ts';

interface LoadOptions extends L1Options {
  name?: string;
  signature?: string;
  set: Record<string, string>;
  link?: boolean;
  hook?: string;
  target?: string;
  order?: number;
  option?: HookOptions;
  replace?: boolean;
}

interface LinkOptions extends L1Options {
  hook: string;
  program?: string;
  target?: string;
  order?: number;
  option?: HookOptions;
}

const collect = (text: string, all: Record<string, string>): Record<string, string> => {
  const [name = '', ...value] = text.split('=');
  return { ...all, [name]: value.join('=') };
};

const elfOptions = (c: Command): Command =>
  l1Options(c)
    .option('--signature <file>', 'detached signature; default: FILE.sig when there is one')
    .option('--set <name=value>', "value of a 'const volatile' of the object; may be repeated", collect, {});

export function registerObjects(program: Command): void {
  registerLoad(program);
  registerLink(program);
  registerUnload(program);
  registerQuestions(program);
}

/** `load` and `replace`. */
function registerLoad(program: Command): void {
  elfOptions(program.command('load'))
    .argument('<file>', 'compiled hyperupcall (.bpf.o)')
    .description('have the host load an object; it is loaded again after restarts until it is unloaded')
    .option('--name <name>', "what to call it; default: the file's name")
    .option('--link', 'link it as well')
    .option('--hook <name>', 'with --link: the hook; default: that of its program')
    .option('--target <nic>', 'with --link: the NIC, for hooks of NICs')
    .addOption(orderOption())
    .addOption(linkOption())
    .option('--replace', 'when there is another object of that name: swap it')
    .addHelpText(
      'after',
      `
Examples:
  hyperturtle load npf.bpf.o --link             load, and answer nested page faults with it
  hyperturtle load npf.bpf.o --name fast        under another name
  hyperturtle load x.bpf.o --set limit=64       with a constant
  hyperturtle check npf.bpf.o                   would it be admitted? (needs no agent)

The host checks the object, then the kernel's verifier does. A refusal names the rule, program and
instruction (exit status 19), or carries the end of the verifier's log (14); nothing has changed then.`,
    )
    .action(load);

  elfOptions(program.command('replace'))
    .argument('<name>', 'object to replace')
    .argument('<file>', 'its new version')
    .description('swap a loaded object for a new version, without a gap; maps of the same shape are kept')
    .addHelpText('after', '\nExample:\n  hyperturtle replace npf npf-2.bpf.o')
    .action(replace);
}

/** `link` and `unlink`. */
function registerLink(program: Command): void {
  l1Options(program.command('link'))
    .argument('<object>')
    .description('let a loaded program answer a hook')
    .requiredOption('--hook <name>', "the hook ('hyperturtle limits' lists them)")
    .option('--program <name>', 'needed when several programs of the object fit')
    .option('--target <nic>', 'the NIC, for hooks of NICs')
    .addOption(orderOption())
    .addOption(linkOption())
    .addHelpText(
      'after',
      '\nExamples:\n  hyperturtle link npf --hook npf\n  hyperturtle link firewall --hook tc-egress --target web --order 10\n  hyperturtle link exit-count --hook exit --option exits=cpuid,hlt,other --option after',
    )
    .action(link);

  l1Options(program.command('unlink'))
    .argument('<link>', "number of the link, or the object's name for all its links")
    .description('end a link; the object stays loaded')
    .addHelpText('after', '\nExamples:\n  hyperturtle unlink 3\n  hyperturtle unlink npf')
    .action(unlink);
}

function registerUnload(program: Command): void {
  l1Options(program.command('unload'))
    .argument('<object>')
    .description('have the host forget an object and its maps')
    .option('--force', 'also while it is linked')
    .action(unload);
}

/** `list`, `stats` and `limits`. */
function registerQuestions(program: Command): void {
  l1Options(program.command('list'))
    .description('what is loaded and linked in the host, and the arena')
    .addHelpText('after', "\n'hyperturtle guest desired' tells what is wanted there.")
    .action((o: L1Options) => ask(o, 'list', listText));

  l1Options(program.command('stats'))
    .description('what the hooks did for this machine')
    .addHelpText('after', "\n'hyperturtle top' shows it live, with each nested guest.")
    .action((o: L1Options) => ask(o, 'stats', allStatsText));

  l1Options(program.command('limits'))
    .description('what the host allows this machine, and how much of it is used')
    .action((o: L1Options) => ask(o, 'limits', limitsText));
}

async function ask<M extends 'list' | 'stats' | 'limits'>(
  options: L1Options,
  method: M,
  text: (result: Result<M>) => string,
): Promise<void> {
  const result = await withAgent(options, (c) => call(c, method, {} as Params<M>));
  print(options, result, text);
}

function call<M extends Exclude<MethodName, 'hello' | 'report'>>(
  { peer, signal, timeoutMs }: AgentClient,
  method: M,
  params: Params<M>,
): Promise<Result<M>> {
  // both tables say the same of these methods; TypeScript does not relate a generic member of one to the other
  return peer.request(method, params as never, { signal, timeoutMs });
}

async function load(file: string, options: LoadOptions): Promise<void> {
  const { readObject } = await import('../../client/object.ts');
  const params = { name: options.name ?? objectNameOf(file), ...readObject(file, options) };
  const result = await withAgent(options, async (c) => {
    const { isHyperturtleError } = await import('../../core/errors.ts');
    const load = (): Promise<Result<'load'>> =>
      call(c, 'load', params).catch(async (e: unknown) => {
        if (!options.replace || !isHyperturtleError(e, 'HT_EXISTS')) throw e;
        return { ...(await call(c, 'replace', params)), existed: true };
      });
    const hooksOf = (object: Result<'load'>['object']): string[] =>
      options.hook === undefined ? [...new Set(object.programs.map((p) => p.hook))] : [options.hook];
    return loadAndLink(c, params, {
      load,
      links: (object) => (options.link ? hooksOf(object).map((hook) => ({ hook, ...place(options) })) : []),
    });
  });
  print(options, result, ({ object, existed, links }) =>
    [
      `${object.name} ${existed ? 'was loaded already' : 'loaded'}: ${object.programs.map((p) => `${p.name} (${p.hook}, ${p.verifiedInstructions} instructions verified)`).join(', ')}`,
      ...links.map((l) => `link ${l.id}: ${l.program} answers ${linkPlace(l)}`),
    ].join('\n'),
  );
}

async function replace(name: string, file: string, options: LoadOptions): Promise<void> {
  const { readObject } = await import('../../client/object.ts');
  const params = { name, ...readObject(file, options) };
  const result = await withAgent(options, (c) => call(c, 'replace', params));
  print(options, result, ({ kept, created }) => {
    const maps = [
      kept.length > 0 ? `kept ${kept.join(', ')}` : '',
      created.length > 0 ? `new ${created.join(', ')}` : '',
    ];
    return `${name} replaced; maps: ${maps.filter(Boolean).join('; ') || 'none'}`;
  });
}

async function link(object: string, options: LinkOptions): Promise<void> {
  const { hook, program } = options;
  const params = { object, hook, ...(program ? { program } : {}), ...place(options) };
  const result = await withAgent(options, (c) => call(c, 'link', params));
  print(
    options,
    result,
    ({ link: l, existed }) =>
      `link ${l.id}${existed ? ' (there already)' : ''}: ${l.program} of ${l.object} answers ${linkPlace(l)}`,
  );
}

const orderOption = (): Option =>
  new Option(
    '--order <number>',
    'among programs on one hook of a NIC: lower runs earlier; default: 100',
  ).argParser(integer('--order', 0, 65_535));

interface Place {
  target?: string;
  order?: number;
  options?: HookOptions;
}
const place = (o: { target?: string; order?: number; option?: HookOptions }): Place => ({
  ...(o.target === undefined ? {} : { target: o.target }),
  ...(o.order === undefined ? {} : { order: o.order }),
  ...(o.option === undefined ? {} : { options: o.option }),
});

const linkPlace = (l: LinkInfo): string =>
  l.target === null
    ? `${l.hook}${l.options ? ` (${optionsText(l.options)})` : ''}`
    : `${l.hook} of ${l.target}, order ${l.order ?? 0}`;

/** `exits=cpuid,rdmsr msrs=0x8b after` */
function optionsText(options: HookOptions): string {
  const list = (name: string, v: unknown[]): string =>
    v.map((x) => (['msrs', 'numbers'].includes(name) ? `0x${Number(x).toString(16)}` : String(x))).join(',');
  return Object.entries(options)
    .filter(([, v]) => v !== false)
    .map(([name, v]: [string, unknown]) =>
      v === true ? name : `${name}=${Array.isArray(v) ? list(name, v) : String(v)}`,
    )
    .join(' ');
}

async function unlink(which: string, options: L1Options): Promise<void> {
  const ended = await withAgent(options, async (c) => {
    const { links } = await call(c, 'list', {});
    const chosen = /^\d+$/.test(which)
      ? [Number(which)]
      : links.filter((l) => l.object === which).map((l) => l.id);
    if (chosen.length === 0) {
      const { HyperturtleError } = await import('../../core/errors.ts');
      throw new HyperturtleError('HT_NOT_FOUND', `'${which}' has no links: 'hyperturtle list' shows them`);
    }
    for (const id of chosen) await call(c, 'unlink', { id });
    return chosen;
  });
  print(options, { unlinked: ended }, () => `unlinked ${ended.join(', ')}`);
}

async function unload(name: string, options: L1Options & { force?: boolean }): Promise<void> {
  const params = { name, ...(options.force ? { force: true } : {}) };
  await withAgent(options, (c) => call(c, 'unload', params));
  print(options, { unloaded: name }, () => `${name} unloaded`);
}

function listText(r: Result<'list'>): string {
  const arena = `arena ${bytesText(r.arena.bytes)}, ${r.arena.state}${r.arena.device === undefined ? '' : ` (${r.arena.device} in the host)`}`;
  return [
    `known to the host as ${r.vm}; ${arena}`,
    '',
    columns(
      ['OBJECT', 'PROGRAM', 'HOOK', 'VERIFIED', 'JITED', 'SIGNED BY', 'LOADED'],
      r.objects.flatMap((o) =>
        o.programs.map((p) => [
          o.name,
          p.name,
          p.hook,
          String(p.verifiedInstructions),
          String(p.jitedBytes),
          o.signedBy ?? '-',
          o.loadedAt,
        ]),
      ),
    ) || 'no objects',
    '',
    columns(
      ['MAP', 'TYPE', 'KEY', 'VALUE', 'ENTRIES', 'BYTES'],
      r.objects.flatMap((o) =>
        o.maps.map((m) => [
          `${o.name}/${m.name}`,
          m.arena ? `${m.type} (arena)` : m.type,
          String(m.keyBytes),
          String(m.valueBytes),
          String(m.maxEntries),
          String(m.bytes),
        ]),
      ),
    ) || 'no maps',
    '',
    columns(
      ['LINK', 'HOOK', 'OBJECT', 'PROGRAM', 'TARGET', 'ORDER', 'OPTIONS', 'SINCE'],
      r.links.map((l) => [
        String(l.id),
        l.hook,
        l.object,
        l.program,
        l.target ?? '-',
        l.order === undefined ? '-' : String(l.order),
        l.options === undefined ? '-' : optionsText(l.options),
        l.since,
      ]),
    ) || 'no links',
    ...(r.ended ?? []).map(({ link, reason }) => `\n${link.object} at ${link.hook} is not linked: ${reason}`),
  ].join('\n');
}

/** Where the events ended: frames are dropped or go on, all else is answered in L0 or reaches L1. */
function endedText(hook: string, f: Figures, of: (n: number) => string): string {
  if (/^(xdp|tc-)/.test(hook)) return `${f.inL0} dropped${of(f.inL0)}, ${f.toL1} went on`;
  const there = hook === 'npf' ? `, ${f.there} already there` : '';
  return `${f.inL0} answered in L0${of(f.inL0)}${there}, ${f.toL1} reached L1${of(f.toL1)}`;
}

/** All hooks, and since when they count. */
export function allStatsText({ hooks, since }: Result<'stats'>): string {
  const begun =
    since === undefined ? [] : [`counted since ${since}, those of NICs since their links were made`];
  return [...hooks.map(statsText), ...begun].join('\n');
}

/** One hook in lines: where the events ended, then why some reached L1, most frequent first. */
export function statsText(s: HookStats): string {
  const f = figuresOf(s);
  const of = (n: number): string => (f.events > 0 ? ` (${shareOf(n, f.events)})` : '');
  const who = s.linked ? `${s.program ?? '?'} of ${s.object ?? '?'}` : 'nothing linked';
  return [
    `${s.hook}: ${who}`,
    `  ${f.events} ${s.hook === 'npf' ? 'faults' : 'events'}: ${endedText(s.hook, f, of)}`,
    ...(s.hook === 'npf' ? [`  ${s.entries} entries written, ${s.learned} learned`] : []),
    ...reasonsToL1(s).map(([name, n]) => `  ${String(n).padStart(10)} ${name}`),
  ].join('\n');
}

/** The limits of a VM as a table, then what each hook allows. */
export function limitsText(r: Result<'limits'>): string {
  const used: Record<string, number> = r.used;
  return [
    columns(
      ['LIMIT', 'USED', 'OF'],
      // what is there by hook is in each hook's own line
      Object.entries(r.limits).flatMap(([name, limit]) =>
        typeof limit === 'number' ? [[name, String(own(used, name) ?? ''), String(limit)]] : [],
      ),
    ),
    '',
    `signature: ${r.signature}`,
    ...r.hooks.map(
      (h) =>
        `hook ${h.name}: ${h.programTypes.join(', ')}; ${h.runNs === undefined ? '' : `a run of at most ${h.runNs / 1000} us; `}maps ${h.mapTypes.join(', ')}; ${h.helpers.length} helpers: ${h.helpers.join(', ')}`,
    ),
  ].join('\n');
}
