/** Rules about maps: their definitions as libbpf reads them from BTF, and how much memory the kernel will take. */
import { BTF_KIND } from '../../bpf/btf-kinds.ts';
import type { Btf, BtfType } from '../../bpf/btf.ts';
import { STT_OBJECT, STT_SECTION } from '../../bpf/elf.ts';
import type { Elf } from '../../bpf/elf.ts';
import { HyperturtleError } from '../../core/errors.ts';
import { BPF_F_MMAPABLE, BPF_MAP_TYPE_ARRAY, mapTypeName } from '../../kernel/bpf.ts';
import type { HookSpec } from '../hooks.ts';
import type { Findings } from './findings.ts';
import type { Layout } from './layout.ts';
import { mapBytes } from './map-bytes.ts';
import { asLoaded, shapeProblem } from './map-shape.ts';
import type { CheckedMap } from './verdict.ts';

/** Programs share the VM's arena through the map of this name. */
const ARENA_MAP = 'arena';
const MAP_NAME = /^[A-Za-z_][A-Za-z0-9_.]{0,62}$/;
const GLOBAL = 1;

export function checkMaps(
  elf: Elf,
  layout: Layout,
  btf: Btf | undefined,
  cpus: number,
  f: Findings,
): CheckedMap[] {
  const maps: CheckedMap[] = [];
  for (const index of layout.variables) {
    const s = elf.sections[index];
    if (!s || s.size === 0) continue;
    const flags = BPF_F_MMAPABLE;
    const shape = { type: BPF_MAP_TYPE_ARRAY, keyBytes: 4, valueBytes: s.size, maxEntries: 1, flags };
    maps.push({
      ...shape,
      name: s.name,
      type: mapTypeName(shape.type),
      bytes: mapBytes(shape, cpus),
      arena: false,
      variables: true,
    });
  }
  if (layout.maps === undefined || btf === undefined) return maps;
  const hooks = layout.code.flatMap((c) => (c.hook ? [c.hook] : []));
  const sections = btf.types.filter((t) => t.kind === BTF_KIND.DATASEC && t.name === '.maps');
  const [section] = sections;
  if (section === undefined || sections.length > 1) {
    f.refuse('map-definition', 'BTF describes no section .maps, or two', 'compile with -g');
    return maps;
  }
  const names = new Set<string>();
  for (const { type } of section.members) {
    const variable = btf.type(type);
    if (names.has(variable.name))
      f.refuse('map-definition', `two maps are named '${variable.name}'`, 'rename one');
    names.add(variable.name);
    const map = f.attempt('map-definition', 'define it like those in the documentation', () =>
      readMap(variable, btf, hooks, cpus, f),
    );
    if (map) maps.push(map);
  }
  checkMapSymbols(elf, layout.maps, btf, section, f);
  return maps;
}

/**
 * libbpf finds the map of a reference by its symbol's place, and takes the maps' places from BTF when BTF has a size,
 * else from their symbols: each map has one symbol, and both say the same.
 */
function checkMapSymbols(elf: Elf, index: number, btf: Btf, section: BtfType, f: Findings): void {
  const refuse = (why: string): void =>
    f.refuse('map-definition', why, 'compile with -g and do not edit the result');
  const symbols = elf.symbols.filter((s) => s.section === index && s.type !== STT_SECTION);
  const places = new Set<number>();
  for (const s of symbols) {
    const member = section.members.find((m) => btf.type(m.type).name === s.name);
    if (s.type !== STT_OBJECT || !member) refuse(`symbol '${s.name}' in .maps is no map`);
    else if (places.has(s.value)) refuse(`two symbols stand for one map`);
    else if (section.size !== 0 && member.offset !== s.value)
      refuse(`map '${s.name}' stands elsewhere by its symbol than by its type`);
    places.add(s.value);
  }
  if (symbols.length !== section.members.length)
    refuse(`${section.members.length} symbols of maps expected, ${symbols.length} found`);
}

interface Definition {
  type: number;
  keyBytes: number;
  valueBytes: number;
  maxEntries: number;
  flags: number;
}

function readMap(
  variable: BtfType,
  btf: Btf,
  hooks: readonly HookSpec[],
  cpus: number,
  f: Findings,
): CheckedMap | undefined {
  const name = variable.name;
  const where = `map '${name}'`;
  if (variable.kind !== BTF_KIND.VAR || variable.linkage !== GLOBAL || !MAP_NAME.test(name)) {
    f.refuse('map-definition', `${where} is no global variable with a C name`, "leave out 'static'");
    return undefined;
  }
  const asked = readDefinition(variable, btf, where, f);
  if (asked === undefined) return undefined;
  const d = asLoaded(asked);
  const arena = name === ARENA_MAP;
  const typeName = mapTypeName(d.type);
  const map: CheckedMap = {
    name,
    ...d,
    type: typeName,
    bytes: arena ? 0 : mapBytes(d, cpus),
    arena,
    variables: false,
  };
  if (arena) {
    if (d.type !== BPF_MAP_TYPE_ARRAY || d.flags !== BPF_F_MMAPABLE || d.maxEntries !== 1 || d.keyBytes !== 4)
      f.refuse(
        'arena',
        `${where} is not shaped like the arena: ${typeName}, ${d.maxEntries} entries, flags 0x${d.flags.toString(16)}`,
        'an array of one entry with BPF_F_MMAPABLE; or give the map another name',
      );
    return map;
  }
  for (const hook of hooks) {
    const allowed = hook.mapTypes.find((t) => t.number === d.type);
    if (!allowed)
      f.refuse(
        'map-type',
        `${where} is a ${typeName}, which hook ${hook.name} may not use`,
        `allowed: ${hook.mapTypes.map((t) => t.name).join(', ')}`,
      );
    else if ((d.flags & ~allowed.flags) !== 0)
      f.refuse(
        'map-flags',
        `${where} has flags 0x${d.flags.toString(16)}; of a ${typeName} 0x${allowed.flags.toString(16)} are allowed`,
        'leave the others out',
      );
  }
  // the shape of what no hook may use helps nobody
  const usable = hooks.length === 0 || hooks.some((h) => h.mapTypes.some((t) => t.number === d.type));
  const problem = usable ? shapeProblem(d) : undefined;
  if (problem) f.refuse('map-definition', `${where}: ${typeName}: ${problem.message}`, problem.mend);
  return map;
}

/** As libbpf's parse_btf_map_def() (1.1) reads it, without what is never allowed. */
function readDefinition(variable: BtfType, btf: Btf, where: string, f: Findings): Definition | undefined {
  const def = btf.plain(variable.type);
  if (def.kind !== BTF_KIND.STRUCT) {
    f.refuse('map-definition', `${where} is no struct`, 'define it with __uint() and __type()');
    return undefined;
  }
  const d: Definition = { type: 0, keyBytes: 0, valueBytes: 0, maxEntries: 0, flags: 0 };
  const seen = new Set<string>();
  for (const m of def.members) {
    if (seen.has(m.name)) f.refuse('map-definition', `${where} has '${m.name}' twice`, 'leave one out');
    seen.add(m.name);
    if (m.name === 'type') d.type = number(btf, m.type, where);
    else if (m.name === 'max_entries') d.maxEntries = number(btf, m.type, where);
    else if (m.name === 'map_flags') d.flags = number(btf, m.type, where);
    else if (m.name === 'key_size') d.keyBytes = number(btf, m.type, where);
    else if (m.name === 'value_size') d.valueBytes = number(btf, m.type, where);
    else if (m.name === 'key') d.keyBytes = pointedSize(btf, m.type, where);
    else if (m.name === 'value') d.valueBytes = pointedSize(btf, m.type, where);
    else if (m.name === 'pinning')
      f.refuse('pinning', `${where} asks to be pinned`, 'leave it out: its name is the object and the map');
    else if (m.name === 'values')
      f.refuse('map-type', `${where} holds maps or programs`, 'no maps in maps, and no tables of programs');
    else f.refuse('map-definition', `${where}: '${m.name}' is not known or not allowed`, 'leave it out');
  }
  for (const [a, b] of [
    ['key', 'key_size'],
    ['value', 'value_size'],
  ] as const)
    if (seen.has(a) && seen.has(b))
      f.refuse('map-definition', `${where} has both '${a}' and '${b}'`, 'leave one out');
  return d;
}

/** `__uint(name, n)`: a pointer to an array of n elements. */
function number(btf: Btf, type: number, where: string): number {
  const pointer = btf.plain(type);
  const array = pointer.kind === BTF_KIND.PTR ? btf.plain(pointer.type) : pointer;
  if (pointer.kind !== BTF_KIND.PTR || array.kind !== BTF_KIND.ARRAY)
    throw new HyperturtleError('HT_BPF', `${where}: a number by __uint() expected`);
  return array.elements;
}

/** `__type(name, type)`: a pointer to it. */
function pointedSize(btf: Btf, type: number, where: string): number {
  const pointer = btf.plain(type);
  if (pointer.kind !== BTF_KIND.PTR)
    throw new HyperturtleError('HT_BPF', `${where}: a type by __type() expected`);
  return btf.sizeOf(pointer.type);
}
