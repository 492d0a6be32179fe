/** C sources of small hyperupcalls for tests of admission and loading. They go through compileBpf. */

export interface SourceParts {
  /** Before the program: maps, functions. */
  before?: string;
  section?: string;
}

/** A program for the npf hook with this body; `ctx` and `zero` are there. */
export function hyperupcall(body: string, parts: SourceParts = {}): string {
  return `
#pragma clang diagnostic ignored "-Wunused"
${parts.before ?? ''}
SEC("${parts.section ?? 'raw_tp.w/hyperturtle_npf'}") int npf(struct bpf_raw_tracepoint_args *args)
{
	struct ht_npf_ctx *ctx = (void *)args->args[0];
	__u32 zero = 0;
	${body}
	return 0;
}`;
}

/** Counts in a hash `counts` that user space reads; each version by its own step. */
export const counterSource = (step: number): string => `
struct {
	__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 64);
	__type(key, __u32); __type(value, __u64);
} counts SEC(".maps");
SEC("raw_tp.w/hyperturtle_npf") int npf(struct bpf_raw_tracepoint_args *args)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&counts, &zero);
	if (n) __sync_fetch_and_add(n, ${step});
	return 0;
}`;

/** A program for a hook of NICs that counts what it sees in `seen` and gives always the same answer. */
export const packetSource = (section: string, answer: number): string => `
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1);
	__type(key, __u32); __type(value, __u64);
} seen SEC(".maps");
SEC("${section}") int prog(void *ctx)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&seen, &zero);
	if (n) (*n)++;
	return ${answer};
}`;
