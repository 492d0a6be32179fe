/** Sources of hyperupcalls that a hostile or careless tenant may send: each with the rule or error that must stop it. */
import { hyperupcall } from './bpf-sources.ts';

export interface BadObject {
  what: string;
  source: string;
  /** Rule of admission, or code of the loader's error. */
  expect: string;
}

const map = (name: string, body: string): string => `struct { ${body} } ${name} SEC(".maps");`;
const helper = (name: string, number: number): string =>
  `static long (*${name})(void *, ...) = (void *)${number};`;
const HASH = '__type(key, __u32); __type(value, __u64);';
const use = (name: string): string => `bpf_map_lookup_elem(&${name}, &zero);`;

const bad = (what: string, expect: string, body: string, before = '', section?: string): BadObject => ({
  what,
  expect,
  source: hyperupcall(body, { before, ...(section === undefined ? {} : { section }) }),
});

const SECTIONS = [
  'kprobe/do_exit',
  'kretprobe/do_exit',
  'raw_tp/sys_enter',
  'raw_tp.w/nbd_send_request',
  '?raw_tp.w/hyperturtle_npf',
  'raw_tp.w/hyperturtle_nothing',
  'tp/syscalls/sys_enter_open',
  'fentry/do_exit',
  'fmod_ret/security_file_open',
  'lsm/file_open',
  'iter/task',
  'xdp/devmap',
  'tc',
  'cgroup/skb',
  'perf_event',
  'uprobe',
  'syscall',
  'struct_ops/x',
  'socket',
  'usdt',
];

const HELPERS: readonly (readonly [name: string, number: number, args: string])[] = [
  ['bpf_probe_read', 4, 'ctx, 8, 0'],
  ['bpf_trace_printk', 6, 'ctx, 8'],
  ['bpf_tail_call', 12, 'args, ctx, 0'],
  ['bpf_get_current_pid_tgid', 14, '0'],
  ['bpf_get_current_comm', 16, 'ctx, 16'],
  ['bpf_perf_event_output', 25, 'args, ctx, 0, ctx, 8'],
  ['bpf_get_current_task', 35, '0'],
  ['bpf_probe_write_user', 36, 'ctx, ctx, 8'],
  ['bpf_override_return', 58, 'args, 0'],
  ['bpf_get_stack', 67, 'args, ctx, 8, 0'],
  ['bpf_send_signal', 109, '(void *)9'],
  ['bpf_probe_read_user', 112, 'ctx, 8, 0'],
  ['bpf_probe_read_kernel', 113, 'ctx, 8, 0'],
  ['bpf_copy_from_user', 148, 'ctx, 8, 0'],
  ['bpf_per_cpu_ptr', 153, 'ctx, 0'],
  ['bpf_get_current_task_btf', 158, '0'],
  ['bpf_for_each_map_elem', 164, 'ctx, ctx, 0, 0'],
  ['bpf_sys_bpf', 166, 'ctx, ctx, 8'],
  ['bpf_timer_init', 169, 'ctx, ctx, 0'],
  ['bpf_loop', 181, '(void *)100, ctx, ctx, 0'],
];

const MAP_TYPES: readonly (readonly [name: string, body: string])[] = [
  ['PROG_ARRAY', '__uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4);'],
  ['PERF_EVENT_ARRAY', '__uint(key_size, 4); __uint(value_size, 4);'],
  ['STACK_TRACE', '__uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 1016);'],
  ['CGROUP_ARRAY', '__uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4);'],
  ['LPM_TRIE', '__uint(max_entries, 1); __uint(map_flags, 1); __type(key, __u64); __type(value, __u64);'],
  ['ARRAY_OF_MAPS', '__uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4);'],
  ['HASH_OF_MAPS', '__uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4);'],
  ['DEVMAP', '__uint(max_entries, 1); __type(key, __u32); __type(value, __u32);'],
  ['SOCKMAP', '__uint(max_entries, 1); __type(key, __u32); __type(value, __u32);'],
  ['QUEUE', '__uint(max_entries, 1); __type(value, __u32);'],
  ['SK_STORAGE', '__uint(map_flags, 1); __type(key, __u32); __type(value, __u32);'],
  ['STRUCT_OPS', '__uint(max_entries, 1); __type(key, __u32); __type(value, __u32);'],
  ['TASK_STORAGE', '__uint(map_flags, 1); __type(key, __u32); __type(value, __u32);'],
];

export const BAD_OBJECTS: readonly BadObject[] = [
  ...SECTIONS.map((s) => bad(`a program in ${s}`, 'hook', '', '', s)),
  ...HELPERS.map(([name, number, args]) =>
    bad(`a call of ${name}`, 'helper', `${name}(${args});`, helper(name, number)),
  ),
  ...MAP_TYPES.map(([name, body]) =>
    bad(
      `a map of type ${name}`,
      'map-type',
      use('m'),
      map('m', `__uint(type, BPF_MAP_TYPE_${name}); ${body}`),
    ),
  ),
  bad(
    'a hash of 4 billion entries',
    'map-bytes',
    use('m'),
    map('m', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 0x7fffffff); ${HASH}`),
  ),
  bad(
    'an array of 1 GiB',
    'map-bytes',
    use('m'),
    map('m', `__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1 << 27); ${HASH}`),
  ),
  bad(
    'a per-CPU array that is large because of the CPUs',
    'map-bytes',
    use('m'),
    map(
      'm',
      '__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1 << 20); __type(key, __u32); __type(value, __u64);',
    ),
  ),
  bad(
    'a ring of 1 GiB',
    'map-bytes',
    'bpf_ringbuf_query(&m, 0);',
    `${helper('bpf_ringbuf_query', 134)} ${map('m', '__uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 30);')}`,
  ),
  bad('1 GiB of variables', 'map-bytes', 'ctx->template = big[ctx->gpa & 1023];', 'char big[1 << 30];'),
  bad(
    'many maps',
    'map-count',
    Array.from({ length: 17 }, (_, i) => use(`m${i}`)).join(' '),
    Array.from({ length: 17 }, (_, i) =>
      map(`m${i}`, `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); ${HASH}`),
    ).join('\n'),
  ),
  bad(
    'a pinned map',
    'pinning',
    use('m'),
    map('m', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __uint(pinning, 1); ${HASH}`),
  ),
  bad(
    'a map without preallocation',
    'map-flags',
    use('m'),
    map('m', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __uint(map_flags, 1); ${HASH}`),
  ),
  bad(
    'a map on a NUMA node',
    'map-definition',
    use('m'),
    map('m', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __uint(numa_node, 1); ${HASH}`),
  ),
  bad(
    'an arena that is a hash',
    'arena',
    use('arena'),
    map('arena', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); ${HASH}`),
  ),
  bad(
    'an arena that cannot be mapped',
    'arena',
    use('arena'),
    map('arena', `__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); ${HASH}`),
  ),
  bad(
    'a kernel symbol',
    'extern',
    'ctx->template = (__u64)&jiffies;',
    'extern const void jiffies __attribute__((section(".ksyms")));',
  ),
  bad(
    'kernel configuration',
    'extern',
    'ctx->template = CONFIG_HZ;',
    'extern int CONFIG_HZ __attribute__((section(".kconfig")));',
  ),
  bad(
    'a kernel function',
    'extern',
    'bpf_rcu_read_lock();',
    'extern void bpf_rcu_read_lock(void) __attribute__((section(".ksyms")));',
  ),
  bad(
    'a CO-RE relocation',
    'core-relocation',
    'struct task *t = (void *)ctx; ctx->template = __builtin_preserve_access_index(t->pid);',
    'struct task { int pid; } __attribute__((preserve_access_index));',
  ),
  bad(
    'a global function',
    'global-function',
    'ctx->template = f(ctx->gpa);',
    '__attribute__((noinline)) int f(int x) { asm volatile("" : "+r"(x)); return x * 3; }',
  ),
  bad(
    'a raw descriptor of the loading process',
    'raw-reference',
    'asm volatile("r1 = 5 ll; r1 = 0" ::: "r1"); asm volatile(".8byte 0x0000000500001118, 0" ::: "r1");',
  ),
  bad('a raw value reference', 'raw-reference', 'asm volatile(".8byte 0x0000000500002118, 0" ::: "r1");'),
  bad('a raw kernel variable', 'raw-reference', 'asm volatile(".8byte 0x0000000500003118, 0" ::: "r1");'),
  bad('a raw map index', 'raw-reference', 'asm volatile(".8byte 0x0000000000005118, 0" ::: "r1");'),
  bad(
    'a raw kernel function',
    'kernel-function',
    'asm volatile(".8byte 0x0000000500002085" ::: "r0", "r1", "r2", "r3", "r4", "r5");',
  ),
  bad('a may_goto loop', 'opcode', 'asm volatile(".8byte 0x00000000000000e5");'),
  bad(
    'a table of pointers',
    'relocation',
    'ctx->template = (__u64)table[ctx->gpa & 1];',
    'int a, b; int *table[2] = { &a, &b };',
  ),
  bad(
    'an address in the arena',
    'pointer-leak',
    '__u64 *a = bpf_map_lookup_elem(&arena, &zero); if (a) a[1] = (__u64)a;',
    map(
      'arena',
      '__uint(type, BPF_MAP_TYPE_ARRAY); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64[8]);',
    ),
  ),
  bad(
    'the address of a variable',
    'pointer-leak',
    'ctx->template = (__u64)&v; v++;',
    'static volatile int v;',
  ),
  bad("the host's stack behind the context", 'pointer-leak', 'ctx->template = ((__u64 *)args)[3];'),
  bad(
    'an address in a map by a helper',
    'pointer-leak',
    '__u64 p = (__u64)ctx; asm volatile("" : "+r"(p)); bpf_map_update_elem(&m, &zero, &p, 0);',
    `${helper('bpf_map_update_elem', 2)} ${map('m', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); ${HASH}`)}`,
  ),
  bad(
    'a structure with bytes that nobody wrote',
    'pointer-leak',
    'struct s { __u32 a; __u64 b; } x; x.a = 1; x.b = 2; bpf_ringbuf_output(&m, &x, sizeof(x), 0);',
    `${helper('bpf_ringbuf_output', 130)} ${map('m', '__uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096);')}`,
  ),
  bad('a read before the context', 'HT_VERIFIER_REJECTED', 'ctx->template = ((__u64 *)ctx)[-1];'),
  bad('a read of memory at any address', 'pointer-leak', 'ctx->template = *(__u64 *)ctx->gpa;'),
  bad(
    'a write behind a value',
    'HT_VERIFIER_REJECTED',
    '__u64 *v = bpf_map_lookup_elem(&m, &zero); if (v) v[1] = 1;',
    map('m', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); ${HASH}`),
  ),
  bad(
    'a value used without a look',
    'HT_VERIFIER_REJECTED',
    '__u64 *v = bpf_map_lookup_elem(&m, &zero); *v = 1;',
    map('m', `__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); ${HASH}`),
  ),
  bad('an endless loop', 'HT_VERIFIER_REJECTED', 'for (;;) asm volatile("");'),
  bad(
    'a verification without end',
    'HT_VERIFIER_REJECTED',
    '__u64 s = 0; for (__u32 i = 0; i < 1 << 24; i++) { s += i ^ (s >> 3); asm volatile("" : "+r"(s)); } ctx->template = s;',
  ),
  bad(
    'a run that is too long',
    'verified-instructions',
    '__u64 s = 0; for (__u32 i = 0; i < 90000; i++) { s += i; asm volatile("" : "+r"(s)); } ctx->template = s;',
  ),
  bad(
    'a leaked record of a ring',
    'HT_VERIFIER_REJECTED',
    'bpf_ringbuf_reserve(&m, 8, 0);',
    `${helper('bpf_ringbuf_reserve', 131)} ${map('m', '__uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096);')}`,
  ),
  bad(
    'a deep stack',
    'HT_VERIFIER_REJECTED',
    'volatile char s[500]; s[ctx->gpa & 255] = 1; ctx->template = f(ctx->gpa);',
    'static __attribute__((noinline)) int f(int x) { volatile char s[500]; s[x & 255] = 2; return x; }',
  ),
];

/** What a tenant may send, with all that is allowed in it. */
export const GOOD_OBJECT = hyperupcall(
  `__u64 *v = bpf_map_lookup_elem(&table, &zero), k = ctx->gpa >> 12;
	struct note *n;
	void *a = bpf_map_lookup_elem(&arena, &zero);
	if (a) ctx->words_off = *(__u64 *)a;
	if (v) __sync_fetch_and_add(v, 1);
	ctx->template = mix(k) + limit + seen++;
	bpf_map_update_elem(&recent, &k, &k, 0);
	v = bpf_map_lookup_elem(&each, &zero);
	if (v) *v += bpf_ktime_get_ns();
	n = bpf_ringbuf_reserve(&notes, sizeof(*n), 0);
	if (n) { n->gpa = k; n->text[0] = name[k & 3]; bpf_ringbuf_submit(n, 0); }
	for (int i = 0; i < 16; i++) ctx->action += mix(i);
	{ __u64 key = k; bpf_map_delete_elem(&recent, &key); }`,
  {
    before: `
static long (*bpf_map_update_elem)(void *, const void *, const void *, __u64) = (void *)2;
static long (*bpf_map_delete_elem)(void *, const void *) = (void *)3;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static void *(*bpf_ringbuf_reserve)(void *, __u64, __u64) = (void *)131;
static void (*bpf_ringbuf_submit)(void *, __u64) = (void *)132;
struct note { __u64 gpa; char text[8]; };
typedef struct { __u64 w[512]; } page_t;
${map('arena', '__uint(type, BPF_MAP_TYPE_ARRAY); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 1); __type(key, __u32); __type(value, page_t);')}
${map('table', '__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 100); __type(key, __u32); __type(value, __u64);')}
${map('recent', '__uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 1000); __type(key, __u64); __type(value, __u64);')}
${map('each', '__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 3); __uint(key_size, 4); __uint(value_size, 8);')}
${map('notes', '__uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 8192);')}
const volatile __u64 limit = 7;
const char name[4] = "npf";
static __u64 seen;
static __attribute__((noinline)) __u64 mix(__u64 x) { asm volatile("" : "+r"(x)); return x ^ (x >> 7); }`,
  },
);
